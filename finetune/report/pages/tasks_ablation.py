"""Write the page of tasks trained alone and together: whether learning them together helps each, and all in the mean.

The wording of the page is in templates/ablation.html.j2; ablation.md says the same in Markdown.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.report import headline_text as headlines
from finetune.report.run.markdown import name as plain
from finetune.report.run.page import load_template, page_assets, write_page
from finetune.report.words import KINDS, relative_link
from finetune.run.read import SCHEMA
from finetune.storage.atomic import atomic_file
from finetune.storage.safe_read import read_json
from finetune.text import count

MIN_SEEDS = 2  # from which chance in training is estimated
AXIS_LIMITS = (1, 2, 5, 10, 20, 50, 100)  # in percent, of the scale of gains on both sides of 0


def write_ablation(folder: Path) -> Path:
    """Write `ablation.html` and `ablation.md` beside `ablation.json` in a folder; gives the page."""
    ablation = _read(folder / "ablation.json")
    if len(ablation["seeds"]) < MIN_SEEDS:
        ablation = _without_intervals(ablation)
    rows = [_row(name, task) for name, task in ablation["tasks"].items()]
    mean = _gain(ablation["delta_m"], ablation.get("delta_m_ci"))
    html = load_template("ablation.html.j2").render(
        ablation=ablation,
        rows=rows,
        mean=mean,
        reach=_axis_limit([mean, *(row["gain"] for row in rows)]),
        verdict=verdict(ablation),
        measured_on=_measured_on(ablation),
        runs=[_run_link(run) for run in ablation.get("runs", [])],
        **page_assets("compare.css"),
    )
    path = folder / "ablation.html"
    try:
        write_page(path, html)
        with atomic_file(folder / "ablation.md") as partial:
            partial.write_bytes(_render_markdown(ablation, rows, mean).encode("utf-8", errors="replace"))
    except OSError as error:
        raise RunError(f"{folder}: the page cannot be written: {error.strerror or error}") from None
    return path


def verdict(ablation: Mapping[str, Any]) -> str:
    """Whether tasks are better learned together, in a sentence."""
    number, ends = len(ablation["tasks"]), ablation.get("delta_m_ci")
    seeds = len(ablation["seeds"])
    mean, tasks = format_gain(ablation["delta_m"]), f"the {count(number, 'task')}"
    how = f"the mean of their relative gains, ΔM, is {mean}"
    if seeds < MIN_SEEDS:
        return f"One seed cannot settle whether {tasks} are better learned together: {how}. Train with --seeds 3."
    if not ends:
        return f"Whether {tasks} are better learned together cannot be settled without an interval: {how}."
    told = f"{how} (95\u00a0% interval {gain_interval(ends)})"
    if ends[0] > 0:
        return f"Together is better: {told}."
    if ends[1] < 0:
        return f"Together is worse: {told}."
    return f"There is no evidence either way whether {tasks} are better learned together: {told}."


def format_gain(gain: float) -> str:
    """Percent of what a task scores alone, with its sign."""
    text = f"{abs(gain):.1f}"
    return f"{'' if text == '0.0' else '+' if gain > 0 else '−'}{text}\u00a0%"


def gain_interval(ends: Sequence[float] | None) -> str:
    return " to ".join(format_gain(end).removesuffix("\u00a0%") for end in ends) + "\u00a0%" if ends else "unknown"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunError(f"{path}: there is no such file; make it with `finetune tasks-ablation`")
    ablation = read_json(path)
    schema = ablation.get("schema") if isinstance(ablation, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path}: schema is {schema!r}, this version reads {SCHEMA}; ablate the tasks again")
    if not ablation.get("tasks"):
        raise RunError(f"{path}: has no task in it; it is damaged: ablate the tasks again")
    return dict(ablation)


def _without_intervals(ablation: dict[str, Any]) -> dict[str, Any]:
    """Of one seed none is known: chance in training is not in it."""
    tasks = {name: task | {"gain_ci": None} for name, task in ablation["tasks"].items()}
    return ablation | {"tasks": tasks, "delta_m_ci": None}


def _row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    key = task["headline"]
    return {
        "name": name,
        "kind": headlines.KINDS.get(task["kind"], task["kind"]),
        "figure": task["name"],
        **{part: _mean(key, task[part]) for part in ("alone", "together")},
        "gain": _gain(task["gain"], task.get("gain_ci")),
    }


def _mean(key: str, values: Sequence[float]) -> dict[str, str]:
    """The mean over seeds, their standard deviation, which is empty for a single one, and each of them."""
    return {
        "mean": headlines.figure(key, statistics.mean(values)),
        "spread": headlines.deviation(statistics.stdev(values), key) if len(values) > 1 else "",
        "each": ", ".join(headlines.figure(key, value) for value in values),
    }


def _gain(gain: float, ends: Sequence[float] | None) -> dict[str, Any]:
    told = "not settled" if not ends else "better together" if ends[0] > 0 else "better alone" if ends[1] < 0 else None
    shown = {"better together": "other", "better alone": "first"}.get(told or "", "none" if ends else "unsettled")
    return {
        "value": gain,
        "ends": list(ends) if ends else None,
        "text": format_gain(gain),
        "interval": gain_interval(ends),
        "told": told or "no evidence either way",
        "shown": shown,
    }


def _axis_limit(gains: Sequence[Mapping[str, Any]]) -> float:
    """To which gain the scale goes on both sides of 0."""
    furthest = max(abs(end) for gain in gains for end in (*(gain["ends"] or []), gain["value"]))
    return next((reach for reach in AXIS_LIMITS if furthest <= reach), furthest)


def _measured_on(ablation: Mapping[str, Any]) -> str:
    clips = count(ablation["num_rows"], f"{KINDS.get(ablation['split'], ablation['split'])} clip")
    return f"{clips}, {count(len(ablation['seeds']), 'seed')}"


def _run_link(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run as it is listed: a folder may come from anyone, so only what lies on the disk beside it is led to."""
    tasks = run["tasks"] if isinstance(run["tasks"], str) else ", ".join(run["tasks"])
    return {"href": relative_link(run["href"]), "tasks": tasks, "seed": run["seed"]}


def _render_markdown(ablation: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> str:
    lines = [f"# {plain(ablation['recipe'])}: tasks alone and together", "", f"**{verdict(ablation)}**", ""]
    lines += ["| task | figure | alone | together | relative gain | 95 % interval | |", f"|{'---|' * 7}"]
    for row in rows:
        parts = [_with_spread(row[part]) for part in ("alone", "together")]
        gain = row["gain"]
        cells = [plain(row["name"]), plain(row["figure"], marked=False), *parts, gain["text"], gain["interval"]]
        lines.append(f"| {' | '.join([*cells, gain['told']])} |")
    lines.append(f"| ΔM, their mean | | | | {mean['text']} | {mean['interval']} | {mean['told']} |")
    return "\n".join([*lines, "", f"Measured on {plain(_measured_on(ablation), marked=False)}."]) + "\n"


def _with_spread(part: Mapping[str, str]) -> str:
    return part["mean"] + (f" ± {part['spread']}" if part["spread"] else "")
