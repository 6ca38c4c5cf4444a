"""Say in Markdown what a report says first, for a pull request: report.md."""

import re
from collections.abc import Sequence
from typing import Any

from finetune.report import words
from finetune.report.run import regression_words as measured
from finetune.report.run.changed_settings import ChangedSetting

MAX_TABLE_CLASSES = 30


def render_markdown_report(
    results: dict[str, Any],
    tasks: Sequence[dict[str, Any]],
    warnings: Sequence[tuple[str, str]],
    changes: Sequence[ChangedSetting],
    beside: Sequence[dict[str, Any]] = (),
) -> str:
    """All but `results` is what the page shows. Names can do nothing: no link, picture or mention."""
    lines = [f"# {name(results['run'])}", ""]
    several = len(tasks) > 1
    for task in sorted(tasks, key=lambda task: not task["primary"]):
        if "answer" in task:
            called = f"{name(task['name'])}: " if several else ""
            lines += [f"{called}**{measured.answer(task, results)}**", "", *_metric_rows(task), ""]
        if task["primary"] and len(beside) > 1:
            lines += [*_task_table(beside), ""]
    lines += [f"- ⚠ {name(what, marked=False)} {name(todo, marked=False)}" for what, todo in warnings]
    for task in tasks:
        of = f" ({name(task['name'])})" if several else ""
        if task.get("pairs"):
            lines += ["", f"Most confused{of}:", ""]
            lines += [
                f"- {name(each['true'])} taken for {name(each['predicted'])} in {each['number']} of {each['of']}"
                for each in task["pairs"][:5]
            ]
        if len(task.get("rows", [])) and len(task["rows"]) <= MAX_TABLE_CLASSES:
            lines += ["", *([f"Class by class{of}:", ""] if several else []), *_classes(task)]
    protocol = ", ".join(f"{key.lower()} {value}" for key, value, _ in words.protocol_rows(results["protocol"]))
    lines += ["", f"Measured on the {results['split']} split: {name(protocol, marked=False)}."]
    if changes:
        lines += ["", "| setting | here | default |", "|---|---|---|"]
        lines += [f"| {name(each.key)} | {name(each.here)} | {name(each.default)} |" for each in changes]
    return "\n".join(lines) + "\n"


def _metric_rows(task: dict[str, Any]) -> list[str]:
    rows = [
        (words.FIGURES[key], words.percent(task[key]), words.interval(task[f"{key}_ci"]))
        for key in words.FIGURES
        if key in task and (key != "top5" or len(task["classes"]) > 5)
    ]
    rows += [(each["called"], each["text"], each["reach"] or "") for each in task["measures"]]
    if "plots" in task:
        beat = task["beat"]
        rows += [(f"always {beat['always']}: {beat['name']}", beat["text"], "")] if beat else []
        return _table(rows)
    if "frozen" in task:
        frozen = task["frozen"]
        rows.append(("with the backbone frozen", words.percent(frozen["top1"]), ""))
    baseline = (
        ("most frequent class", task["majority"]["top1"]) if "majority" in task else ("chance", task["chance_map"])
    )
    rows.append((baseline[0], words.percent(baseline[1]), ""))
    return _table(rows)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return ["| figure | value | 95 % interval |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _task_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The tasks of a run, a row each."""
    lines = ["| task | figure | value | 95 % interval | to beat | clips | weight at the end |", f"|{'---|' * 7}"]
    for row in rows:
        cells = (name(row["name"]), row["figure"], row["text"], row["reach"], row["beat"], row["clips"], row["weight"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _classes(task: dict[str, Any]) -> list[str]:
    lines = ["| class | recall | precision | F1 | clips |", "|---|---|---|---|---|"]
    for row in task["rows"]:
        figures = (words.percent(row[key]) for key in ("recall", "precision", "f1"))
        lines.append(f"| {name(row['class'])} | {' | '.join(figures)} | {row['support']} |")
    return lines


def name(text: str, *, marked: bool = True) -> str:
    """Any text so that Markdown and HTML take it as text, on one line; `marked` as a name."""
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", " ", text)
    escaped = re.sub(r"[^\w\s.,:;%()/=+\u00a0“”–−-]|_", lambda match: f"&#{ord(match[0])};", clean)
    # Some look for addresses, mentions and numbers of issues in what Markdown has become: a word joiner parts these.
    escaped = re.sub(r"(?i)&#(?:35|64);|www(?=\.)|:(?=//)", r"\g<0>&#8288;", escaped)
    return f"<code>{escaped}</code>" if marked else escaped
