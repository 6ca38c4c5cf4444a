"""Write the page that compares multi-task with single-task training: the gain of each task, and the mean gain.

Its sentences are in templates/ablation.html.j2; ablation.md has the same in Markdown.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.report.headline_text import KIND_NAMES, format_deviation, format_headline_value
from finetune.report.html_page import load_template, page_assets, write_page
from finetune.report.run.markdown import escape_markdown
from finetune.report.words import SPLIT_ADJECTIVES, relative_link
from finetune.run.results import RESULTS_FORMAT
from finetune.storage.safe_read import read_json
from finetune.text import count

MIN_SEEDS = 2  # fewer give no estimate of the variation between seeds
AXIS_LIMITS = (1, 2, 5, 10, 20, 50, 100)  # in percent, of the symmetric scale of gains


def write_ablation(folder: Path, ablation: dict[str, Any] | None = None) -> Path:
    """Write `ablation.html` and `ablation.md` into the folder of `ablation.json`; returns the path of the page.

    `ablation` is the content of that file, which is read where it is not given.
    """
    ablation = ablation or _read(folder / "ablation.json")
    if len(ablation["seeds"]) < MIN_SEEDS:
        ablation = _without_intervals(ablation)
    rows = [_row(name, task) for name, task in ablation["tasks"].items()]
    mean = _gain(ablation["delta_m"], ablation.get("delta_m_ci"))
    html = load_template("ablation.html.j2").render(
        ablation=ablation,
        rows=rows,
        mean=mean,
        axis_limit=_axis_limit([mean, *(row["gain"] for row in rows)]),
        verdict=verdict(ablation),
        test_set=_test_set(ablation),
        runs=[_run_link(run) for run in ablation.get("runs", [])],
        **page_assets("compare.css"),
    )
    path = folder / "ablation.html"
    try:
        write_page(path, html)
        write_page(folder / "ablation.md", _render_markdown(ablation, rows, mean))
    except OSError as error:
        raise RunError(f"{folder}: the page cannot be written: {error.strerror or error}") from None
    return path


def verdict(ablation: Mapping[str, Any]) -> str:
    """The headline sentence: whether multi-task training is better than single-task training."""
    ends = ablation.get("delta_m_ci")
    mean = (
        f"the mean relative gain ΔM over {count(len(ablation['tasks']), 'task')} is {format_gain(ablation['delta_m'])}"
    )
    if len(ablation["seeds"]) < MIN_SEEDS:
        return f"One seed is not enough to compare multi-task with single-task training: {mean}. Train with --seeds 3."
    if not ends:
        return f"Without an interval, multi-task and single-task training cannot be compared: {mean}."
    mean += f" (95\u00a0% interval {gain_interval(ends)})"
    if ends[0] > 0:
        return f"Multi-task training is better: {mean}."
    if ends[1] < 0:
        return f"Multi-task training is worse: {mean}."
    return f"There is no evidence of a difference between multi-task and single-task training: {mean}."


def format_gain(gain: float) -> str:
    """A relative gain in percent, with its sign."""
    text = f"{abs(gain):.1f}"
    return f"{'' if text == '0.0' else '+' if gain > 0 else '−'}{text}\u00a0%"


def gain_interval(ends: Sequence[float] | None) -> str:
    return " to ".join(format_gain(end).removesuffix("\u00a0%") for end in ends) + "\u00a0%" if ends else "unknown"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunError(f"{path}: there is no such file; make it with `finetune tasks-ablation`")
    ablation = read_json(path)
    schema = ablation.get("schema") if isinstance(ablation, dict) else None
    if schema != RESULTS_FORMAT:
        raise RunError(f"{path}: schema is {schema!r}, this version reads {RESULTS_FORMAT}; ablate the tasks again")
    if not ablation.get("tasks"):
        raise RunError(f"{path}: has no task in it; it is damaged: ablate the tasks again")
    return dict(ablation)


def _without_intervals(ablation: dict[str, Any]) -> dict[str, Any]:
    """One seed gives no interval: the variation between seeds is unknown."""
    tasks = {name: task | {"gain_ci": None} for name, task in ablation["tasks"].items()}
    return ablation | {"tasks": tasks, "delta_m_ci": None}


def _row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    key = task["headline"]
    return {
        "name": name,
        "kind": KIND_NAMES.get(task["kind"], task["kind"]),
        "metric": task["name"],
        "single": _mean_over_seeds(key, task["alone"]),
        "multi": _mean_over_seeds(key, task["together"]),
        "gain": _gain(task["gain"], task.get("gain_ci")),
    }


def _mean_over_seeds(key: str, values: Sequence[float]) -> dict[str, str]:
    """Texts of mean, standard deviation (empty for one seed) and all values."""
    return {
        "mean": format_headline_value(key, statistics.mean(values)),
        "spread": format_deviation(statistics.stdev(values), key) if len(values) > 1 else "",
        "per_seed": ", ".join(format_headline_value(key, value) for value in values),
    }


def _gain(gain: float, ends: Sequence[float] | None) -> dict[str, Any]:
    if not ends:
        verdict_text, style = "too few seeds", "unsettled"
    elif ends[0] > 0:
        verdict_text, style = "multi-task better", "other"
    elif ends[1] < 0:
        verdict_text, style = "single-task better", "first"
    else:
        verdict_text, style = "no evidence of a difference", "none"
    return {
        "value": gain,
        "interval": list(ends) if ends else None,
        "text": format_gain(gain),
        "interval_text": gain_interval(ends),
        "verdict": verdict_text,
        "style": style,  # a class of compare.css
    }


def _axis_limit(gains: Sequence[Mapping[str, Any]]) -> float:
    """The end of the scale of gains, which is symmetric around 0, in percent."""
    largest = max(abs(end) for gain in gains for end in (*(gain["interval"] or []), gain["value"]))
    return next((limit for limit in AXIS_LIMITS if largest <= limit), largest)


def _test_set(ablation: Mapping[str, Any]) -> str:
    clips = count(ablation["num_rows"], f"{SPLIT_ADJECTIVES.get(ablation['split'], ablation['split'])} clip")
    return f"{clips}, {count(len(ablation['seeds']), 'seed')}"


def _run_link(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with its link; None for anything but a relative path, because a folder may come from anyone."""
    tasks = run["tasks"] if isinstance(run["tasks"], str) else ", ".join(run["tasks"])
    return {"href": relative_link(run["href"]), "tasks": tasks, "seed": run["seed"]}


def _render_markdown(ablation: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> str:
    lines = [f"# {escape_markdown(ablation['recipe'])}: single-task vs. multi-task training", ""]
    lines += [f"**{verdict(ablation)}**", ""]
    lines += ["| task | metric | single-task | multi-task | relative gain | 95 % interval | |", f"|{'---|' * 7}"]
    for row in rows:
        task = [escape_markdown(row["name"]), escape_markdown(row["metric"], as_code=False)]
        cells = [*task, _with_spread(row["single"]), _with_spread(row["multi"]), *_gain_cells(row["gain"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| ΔM, mean relative gain | | | | {' | '.join(_gain_cells(mean))} |")
    return "\n".join([*lines, "", f"Evaluated on {escape_markdown(_test_set(ablation), as_code=False)}."]) + "\n"


def _gain_cells(gain: Mapping[str, Any]) -> list[str]:
    return [gain["text"], gain["interval_text"], gain["verdict"]]


def _with_spread(part: Mapping[str, str]) -> str:
    return part["mean"] + (f" ± {part['spread']}" if part["spread"] else "")
