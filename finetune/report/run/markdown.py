"""Render report.md: headline, metrics, warnings and tables of a report as Markdown, for a pull request."""

import re
from collections.abc import Sequence
from typing import Any

from finetune.report import words
from finetune.report.run.changed_settings import ChangedSetting
from finetune.report.run.task_words import task_summary
from finetune.report.run.timeline_section import timeline_metrics
from finetune.run.results import Results

MAX_TABLE_CLASSES = 30


def render_markdown_report(
    results: Results,
    tasks: Sequence[dict[str, Any]],
    warnings: Sequence[tuple[str, str]],
    changes: Sequence[ChangedSetting],
    task_rows: Sequence[dict[str, Any]] = (),
) -> str:
    """The Markdown text; all arguments but `results` are what the HTML page shows.

    Names from the run are escaped, so that they form no link, picture or mention.
    """
    lines = [f"# {escape_markdown(results['run'])}", "", *headline_lines(results, tasks, task_rows)]
    for problem, todo in warnings:
        lines.append(f"- ⚠ {escape_markdown(problem, as_code=False)} {escape_markdown(todo, as_code=False)}")
    lines += [*timeline_lines(results), *class_lines(tasks), "", *protocol_lines(results)]
    if changes:
        lines += ["", "| setting | value | default |", "|---|---|---|"]
        for change in changes:
            lines.append(f"| {' | '.join(escape_markdown(text) for text in change)} |")
    return "\n".join(lines) + "\n"


def headline_lines(
    results: Results, tasks: Sequence[dict[str, Any]], task_rows: Sequence[dict[str, Any]] = ()
) -> list[str]:
    """The headline sentence and the metrics of each task, the primary one first."""
    lines: list[str] = []
    for task in sorted(tasks, key=lambda task: not task["primary"]):
        if "summary" in task:
            prefix = f"{escape_markdown(task['name'])}: " if len(tasks) > 1 else ""
            lines += [f"{prefix}**{task_summary(task, results)}**", "", *_metric_rows(task), ""]
        if task["primary"] and len(task_rows) > 1:
            lines += [*_task_table(task_rows), ""]
    return lines


def timeline_lines(results: Results) -> list[str]:
    """The metrics of events in recordings; empty without a timeline."""
    if not (timeline := results.get("timeline")):
        return []
    shown = timeline_metrics(timeline)
    rows = [(row["name"], words.percent(row["value"]), words.interval(row["interval"])) for row in shown]
    return ["", "Events in recordings:", "", *_table(rows)]


def class_lines(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """The most confused pairs and the per-class table of each task with classes."""
    return [
        line
        for task in tasks
        for line in _class_sections(task, f" ({escape_markdown(task['name'])})" if len(tasks) > 1 else "")
    ]


def protocol_lines(results: Results) -> list[str]:
    """How the results were measured, as a table."""
    lines = [f"Evaluated on the {results['split']} split:", "", "| protocol | value |", "|---|---|"]
    for name, value, _ in words.protocol_rows(results["protocol"]):
        lines.append(f"| {escape_markdown(name, as_code=False)} | {escape_markdown(value, as_code=False)} |")
    return lines


def _class_sections(task: dict[str, Any], suffix: str) -> list[str]:
    """The most confused pairs and the per-class table of a task with classes; `suffix` names one of several tasks."""
    lines = []
    if task.get("pairs"):
        lines += ["", f"Most frequent confusions{suffix}:", ""]
        for pair in task["pairs"][:5]:
            true, predicted = escape_markdown(pair["true"]), escape_markdown(pair["predicted"])
            lines.append(f"- {true} predicted as {predicted}: {pair['number']} of {pair['of']}")
    if task.get("open_set_rows"):
        unknown = words.count(task["open_set"]["num_unknown"], "clip")
        lines += ["", f"{unknown} of unknown classes, by score (accepted: with 95 % of the known clips):", ""]
        lines += ["| score | AUROC | 95 % interval | accepted | 95 % interval |", "|---|---|---|---|---|"]
        for row in task["open_set_rows"]:
            ends = row["auroc_ci"]
            auroc = [f"{row['auroc']:.3f}", "unknown" if ends is None else "{:.3f}–{:.3f}".format(*ends)]
            accepted = [words.percent(row["accepted"]), words.interval(row["accepted_ci"])]
            lines.append(f"| {' | '.join([row['title'], *auroc, *accepted])} |")
    if task.get("dense"):
        lines += ["", *([f"Per-class metrics{suffix}:", ""] if suffix else []), *_dense_table(task)]
    elif 0 < len(task.get("rows", [])) <= MAX_TABLE_CLASSES:
        lines += ["", *([f"Per-class metrics{suffix}:", ""] if suffix else []), *_per_class_table(task)]
    return lines


def _metric_rows(task: dict[str, Any]) -> list[str]:
    rows = [
        (name, words.percent(task[key]), words.interval(task[f"{key}_ci"]))
        for key, name in words.METRIC_NAMES.items()
        if key in task and (key != "top5" or len(task["classes"]) > 5)
    ]
    rows += [(metric["name"], metric["text"], metric["interval_text"] or "") for metric in task["metrics"]]
    if task.get("dense"):
        return _table([*rows, *((row["title"], row["text"], row["interval_text"]) for row in task["tracking"])])
    if "plots" in task:
        baseline = task["baseline_row"]
        if baseline:
            rows.append((f"{baseline['name']} of always predicting {baseline['constant']}", baseline["text"], ""))
        return _table(rows)
    if "frozen" in task:
        rows.append(("top-1 accuracy with a frozen backbone", words.percent(task["frozen"]["top1"]), ""))
    if "majority" in task:
        rows.append(("majority-class baseline", words.percent(task["majority"]["top1"]), ""))
    else:
        rows.append(("random ranking", words.percent(task["chance_map"]), ""))
    return _table(rows)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return ["| metric | value | 95 % interval |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _task_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| task | metric | value | 95 % interval | baseline | clips | final loss weight |", f"|{'---|' * 7}"]
    for row in rows:
        values = (row[key] for key in ("metric", "text", "interval_text", "baseline", "clips", "weight"))
        lines.append(f"| {' | '.join([escape_markdown(row['name']), *map(str, values)])} |")
    return lines


def _per_class_table(task: dict[str, Any]) -> list[str]:
    lines = ["| class | recall | precision | F1 | clips |", "|---|---|---|---|---|"]
    for row in task["rows"]:
        metrics = (words.percent(row[key]) for key in ("recall", "precision", "f1"))
        lines.append(f"| {escape_markdown(row['class'])} | {' | '.join(metrics)} | {row['support']} |")
    return lines


def _dense_table(task: dict[str, Any]) -> list[str]:
    """The classes of a detection or segmentation task, the worst first."""
    titles = {"iou": "IoU"} if task["kind"] == "segment" else {"ap": "AP", "ap50": "AP50"}
    titles |= {"recall": "recall", "precision": "precision"}
    unit = "pixels" if task["kind"] == "segment" else "objects"
    lines = [f"| class | {' | '.join(titles.values())} | {unit} |", f"|{'---|' * (len(titles) + 2)}"]
    for row in task["rows"][:MAX_TABLE_CLASSES]:
        values = " | ".join(words.percent(row[key]) for key in titles)
        lines.append(f"| {escape_markdown(row['class'])} | {values} | {row['support']} |")
    return lines


_DIRECTIONS = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
# What ends a code span or a cell of a table, and what some renderers look for in code too: HTML, links and mentions.
_NO_CODE_SPAN = re.compile(r"[`<>&|\\[@#]|://|www\.|^\s|\s$|^$", re.IGNORECASE)


def escape_markdown(text: str, *, as_code: bool = True) -> str:
    """Any text as one line that Markdown and HTML show literally; `as_code` shows it as code.

    Code is put between backticks, or into an HTML element where it has characters that end such a span.
    """
    clean = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", _DIRECTIONS.sub("", text))
    if as_code and not _NO_CODE_SPAN.search(clean):
        return f"`{clean}`"
    # Underscores between letters or digits have no meaning in Markdown.
    special = r"[^\w\s.,:;%()/=+'\u00a0“”–−-]|_(?![^\W_])|(?<![^\W_])_"
    escaped = re.sub(special, lambda match: f"&#{ord(match[0])};", clean)
    # Renderers also link addresses, mentions and issue numbers after unescaping: a word joiner breaks these up.
    escaped = re.sub(r"(?i)&#(?:35|64);|www(?=\.)|:(?=//)", r"\g<0>&#8288;", escaped)
    return f"<code>{escaped}</code>" if as_code else escaped
