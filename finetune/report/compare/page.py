"""Compare runs on the clips that all of them were tested on, and write what was found as a page.

The wording of the page is in templates/compare.html.j2; here is what the files say and what follows from it. A run is
called by a letter where there is no room for its name; all others are compared with the first, A.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from finetune.errors import RunError
from finetune.metrics import paired_tests as paired
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.intervals import interval_of_shares
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.report.compare import overlaid_curves as overlay
from finetune.report.compare import words as compare_words
from finetune.report.compare.matched_clips import MatchedClips, Row, common_folder, label_set, match_clips
from finetune.report.headline_text import shared_headlines
from finetune.report.run.page import load_template, page_assets, write_page
from finetune.run.read import (
    read_epochs,
    read_predictions,
    read_recipe,
    read_results,
    training_seconds,
    with_task_metrics,
)
from finetune.storage.safe_read import damage_as_run_error

MAX_RUNS = len(string.ascii_uppercase)
FLIPS_SHOWN, RELABELLED_SHOWN = 20, 50


class ComparedRun(NamedTuple):
    """What a run has left that is compared."""

    mark: str
    name: str
    folder: Path
    results: dict[str, Any]
    task: dict[str, Any]
    table: list[Row]
    epochs: list[dict[str, Any]]
    recipe: dict[str, Any] | None


def compare_runs(runs: Sequence[Path], *, split: str | None = None) -> dict[str, Any]:
    """Each run beside the first, on the clips that all were tested on; plain values, as JSON has them.

    The clips are those of a split; None: of that which each was scored on when it was trained.

    Raises RunError, with every run that cannot be compared.
    """
    opened = _load_runs(runs, split)
    with damage_as_run_error(Path(", ".join(str(run) for run in runs))):
        return _compared(opened)


def _compared(opened: Sequence[ComparedRun]) -> dict[str, Any]:
    split = _common_split(opened)
    kind = _kind(opened)
    names = [f"{run.mark} ({run.name})" for run in opened]
    matched = match_clips(names, [run.table for run in opened], multilabel=kind == "multilabel")
    right = [_correct_clips(rows, kind) for rows in matched.rows]
    groups = None if matched.groups is None else np.array(matched.groups)
    result = {
        "split": split,
        "kind": kind,
        "figure": HEADLINE_METRICS[kind][1],
        "num_rows": len(right[0]),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "tasks": shared_headlines([run.results for run in opened]),
        "primary": primary_task(opened[0].results["tasks"]),
        "runs": [_run_summary(run, right[index], groups) for index, run in enumerate(opened)],
        "by_name": matched.by_name,
        "folder": common_folder([row["path"] for row in matched.rows[0]]),
        "left_out": matched.left_out,
        "relabelled": matched.relabelled,
        "pairs": [
            pair
            | {
                "flips": _changed_predictions(matched, right, pair["other"]),
                "classes": _class_changes(matched, pair["other"], kind),
            }
            for pair in _compare_with_first(opened, right, groups)
        ],
        "recipes": _recipe_differences(opened),
    }
    return result | {"caveats": compare_words.caveats(result, [run.results for run in opened])}


def write_compare_page(result: Mapping[str, Any], path: Path) -> None:
    """Write the page of what `compare_runs` gives."""
    with damage_as_run_error(Path(", ".join(str(run["folder"]) for run in result["runs"]))):
        html = _page(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, html)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from None


def _page(result: Mapping[str, Any]) -> str:
    return load_template("compare.html.j2").render(
        result=result,
        runs=result["runs"],
        answer=compare_words.answer(result),
        reach=_axis_limit(result["pairs"]),
        curves=_curves(result),
        p_value=compare_words.p_value,
        dashes=[" ".join(map(str, dash)) for dash in overlay.DASHES],
        flips_shown=FLIPS_SHOWN,
        relabelled_shown=RELABELLED_SHOWN,
        **page_assets("compare.css"),
    )


def _axis_limit(pairs: Sequence[Mapping[str, Any]]) -> float:
    """To which difference, on both sides of 0, the scale of the differences goes: 5, 10, 20, 50 or 100 points."""
    furthest = max(abs(end) for pair in pairs for end in (*pair["interval"], pair["difference"]))
    return next(reach for reach in (0.05, 0.1, 0.2, 0.5, 1.0) if furthest <= reach)


def _curves(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures, what is not in them, and which runs have no line; None where no run has epochs."""
    lines = [(run["mark"], run["epochs"]) for run in result["runs"][: overlay.MAX_LINES]]
    if not any(epochs for _, epochs in lines):
        return None
    key, what = ("val_map", "mAP") if result["kind"] == "multilabel" else ("val_top1", "Right at the first guess")
    figure = overlay.draw_curves(lines, key, name="curve-figure", what=what, is_share=True)
    loss = overlay.draw_curves(lines, "val_loss", name="curve-loss", what="Loss", is_share=False)
    without = [run for run in result["runs"] if not any(epoch.get(key) is not None for epoch in run["epochs"])]
    return {"figure": Markup(figure), "loss": Markup(loss), "name": what, "without": without}


def _load_runs(runs: Sequence[Path], split: str | None) -> list[ComparedRun]:
    if len(runs) < 2:
        raise RunError(f"compare takes two runs or more, this is {len(runs)}: finetune compare RUN RUN")
    if len(runs) > MAX_RUNS:
        raise RunError(f"compare takes up to {MAX_RUNS} runs, these are {len(runs)}; name fewer")
    folders = [run.resolve() for run in runs]
    if twice := [str(run) for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1]:
        raise RunError(f"{twice[0]}: is named more than once; name different runs")
    opened, problems = [], []
    for mark, run, name in zip(string.ascii_uppercase, runs, _short_run_names(folders), strict=False):
        try:
            with damage_as_run_error(run):
                opened.append(_load_run(mark, name, run, split))
        except RunError as error:
            problems.append(str(error))
    if problems:
        raise RunError("\n".join(problems))
    return opened


def _load_run(mark: str, name: str, run: Path, split: str | None) -> ComparedRun:
    results = read_results(run, split)
    first = primary_task(results["tasks"])
    _check_categorical(results["tasks"][first], run)
    table, epochs, recipe = read_predictions(run, split), read_epochs(run), read_recipe(run)
    epochs = with_task_metrics(first, epochs)
    return ComparedRun(mark, name, run, results, results["tasks"][first], table, epochs, recipe)


def _check_categorical(task: Mapping[str, Any], run: Path) -> None:
    if task.get("kind") in set(HEADLINE_METRICS) - set(CATEGORICAL_KINDS):
        raise RunError(
            f"{run}: learned no task of classes ({task['kind']}), so none of its clips is right or wrong; "
            "`finetune runs` lists the figures of runs side by side"
        )


def _common_split(runs: Sequence[ComparedRun]) -> str:
    """On which split all were scored: without a split test, training scores on val in its place."""
    splits = {run.name: str(run.results["split"]) for run in runs}
    if len(set(splits.values())) > 1:
        listed = ", ".join(f"{name} on {split}" for name, split in splits.items())
        raise RunError(f"the runs were not scored on the same split: {listed}; name one with --split")
    return next(iter(splits.values()))


def _short_run_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell them apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _kind(runs: Sequence[ComparedRun]) -> str:
    kinds = {str(run.task.get("kind")) for run in runs}
    if len(kinds) > 1 or not kinds <= set(HEADLINE_METRICS):
        said = ", ".join(f"{run.folder}: {run.task.get('kind')}" for run in runs)
        raise RunError(f"these runs learned different kinds of task ({said}); compare runs of one kind")
    return kinds.pop()


def _correct_clips(rows: Sequence[Row], kind: str) -> np.ndarray:
    """Whether each clip is right: where it may have several classes, whether exactly its own are named."""
    several = kind == "multilabel"
    return np.array([label_set(row["label"], several) == label_set(row["predicted"], several) for row in rows])


def _run_summary(run: ComparedRun, correct_N: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    key, task, protocol = HEADLINE_METRICS[run.task["kind"]][0], run.task, run.results["protocol"]
    model = (run.recipe or {}).get("model")
    return {
        "mark": run.mark,
        "name": run.name,
        "folder": str(run.folder),
        "num_rows": run.results["num_rows"],
        "value": task[key],
        "ci": task[f"{key}_ci"],
        "right": float(correct_N.mean()),
        "right_ci": interval_of_shares(correct_N, groups),
        "macro_f1": task["macro_f1"],
        "classes": list(task["classes"]),
        "model": [str(model[part]) for part in ("backbone", "temporal") if part in model] if model else [],
        "frames": f"{protocol['num_frames']} frames of {protocol['size']} px" if "num_frames" in protocol else "",
        "folds": len(run.results.get("folds", [])),
        "training_seconds": training_seconds(run.epochs) if run.epochs else None,
        "evaluation_seconds": run.results["seconds"],
        "epochs": run.epochs,
        "has_recipe": run.recipe is not None,
    }


def _compare_with_first(
    runs: Sequence[ComparedRun], right: Sequence[np.ndarray], groups: np.ndarray | None
) -> list[dict[str, Any]]:
    """The first run with each other one; `first` and `other` are their places."""
    pairs = [paired.compare(right[0], other, groups=groups, comparisons=len(right) - 1) for other in right[1:]]
    adjusted = paired.holm([pair.mcnemar_p for pair in pairs])
    unit, marks = "clip" if groups is None else "group", [run.mark for run in runs]
    return [
        asdict(pair)
        | {"first": 0, "other": index, "adjusted_p": p, "verdict": pair.verdict, "disagrees": pair.disagrees(p)}
        | {"words": paired.in_words(pair, first=marks[0], other=marks[index], unit=unit)}
        for index, (pair, p) in enumerate(zip(pairs, adjusted, strict=True), 1)
    ]


def _changed_predictions(
    matched: MatchedClips, right: Sequence[np.ndarray], other: int
) -> dict[str, list[dict[str, Any]]]:
    """Clips that one of the two alone has right; first those where the other was surest of what is wrong."""
    found: dict[str, list[dict[str, Any]]] = {"only_first": [], "only_other": []}
    for first_row, other_row, a, b in zip(matched.rows[0], matched.rows[other], right[0], right[other], strict=True):
        if a != b:
            right_row, wrong_row = (first_row, other_row) if a else (other_row, first_row)
            row = {"path": first_row["path"], "label": first_row["label"], "said": wrong_row["predicted"]}
            row |= {"right_probability": right_row["probability"], "said_probability": wrong_row["probability"]}
            found["only_first" if a else "only_other"].append(row)
    return {side: sorted(rows, key=lambda row: (-row["said_probability"], row["path"])) for side, rows in found.items()}


def _class_changes(matched: MatchedClips, other: int, kind: str) -> list[dict[str, Any]]:
    """Classes in which one of the two has clips right that the other has not, the largest change first."""
    several = kind == "multilabel"
    classes: dict[str, dict[str, Any]] = {}
    for first_row, other_row in zip(matched.rows[0], matched.rows[other], strict=True):
        truth, first, second = (
            label_set(text, several) for text in (first_row["label"], first_row["predicted"], other_row["predicted"])
        )
        for name in sorted(truth | first | second) if several else truth:
            row = classes.setdefault(name, {"class": name, "clips": 0, "first": 0, "gained": 0, "lost": 0})
            a, b = ((name in said) == (name in truth) for said in (first, second))
            row["clips"] += name in truth
            row["first"] += a and name in truth
            row["gained"] += b and not a
            row["lost"] += a and not b
    changed = [row for row in classes.values() if row["gained"] or row["lost"]]
    return sorted(changed, key=lambda row: (-abs(row["gained"] - row["lost"]), -row["gained"], row["class"]))


def _recipe_differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str | None]]]:
    """(dotted key, its value in each run) where values differ; None where a run's recipe has no such key."""
    flat = [flatten_settings(run.recipe) for run in runs if run.recipe is not None]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    differing = [key for key in keys if len({recipe.get(key) for recipe in flat}) > 1]
    recipes = [{} if run.recipe is None else flatten_settings(run.recipe) for run in runs]
    return [(key, [recipe.get(key) for recipe in recipes]) for key in differing]


def flatten_settings(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested values by dotted key, as an override writes it; lists of plain values in one text."""
    if isinstance(value, Mapping) and value:
        parts: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        parts = list(enumerate(value))
    else:
        return {prefix: _setting_text(value)}
    below = f"{prefix}." if prefix else ""
    return {key: text for name, part in parts for key, text in flatten_settings(part, f"{below}{name}").items()}


def _setting_text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_setting_text, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return "{}" if value == {} else words[value] if value is None or isinstance(value, bool) else str(value)
