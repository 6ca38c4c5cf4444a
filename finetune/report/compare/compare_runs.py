"""Compare runs on the clips that all of them were evaluated on: paired tests, changed predictions, recipes.

Every run is compared with the first one. A run is named by a letter (`mark`: A, B, …) where its name does not fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from finetune.metrics import paired_tests
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.metrics.intervals import interval_of_shares
from finetune.recipe.tasks import primary_task
from finetune.report.compare.load_runs import ComparedRun, common_kind, common_split, load_runs
from finetune.report.compare.matched_clips import MatchedClips, Row, label_set, match_clips
from finetune.report.compare.words import caveats
from finetune.report.headline_text import shared_headlines
from finetune.report.run.clips_section import common_folder
from finetune.run.read import training_seconds
from finetune.storage.safe_read import damage_as_run_error


def compare_runs(runs: Sequence[Path], *, split: str | None = None) -> dict[str, Any]:
    """Compare each run with the first, on the clips that all runs were evaluated on; the result is plain JSON values.

    `split` None is the split that each run was evaluated on when it was trained.

    Raises RunError that names every run that cannot be compared.
    """
    compared = load_runs(runs, split)
    with damage_as_run_error(Path(", ".join(str(run) for run in runs))):
        return _compare(compared)


def _compare(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    split = common_split(runs)
    kind = common_kind(runs)
    names = [f"{run.mark} ({run.name})" for run in runs]
    matched = match_clips(names, [run.table for run in runs], multilabel=kind == "multilabel")
    correct = [_correct_clips(rows, kind) for rows in matched.rows]
    groups = None if matched.groups is None else np.array(matched.groups)
    result = {
        "split": split,
        "kind": kind,
        "metric": HEADLINE_METRICS[kind][1],
        "num_rows": len(correct[0]),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "tasks": shared_headlines([run.results for run in runs]),
        "primary": primary_task(runs[0].results["tasks"]),
        "runs": [_run_summary(run, correct[index], groups) for index, run in enumerate(runs)],
        "by_name": matched.by_name,
        "folder": common_folder([row["path"] for row in matched.rows[0]]),
        "left_out": matched.left_out,
        "relabelled": matched.relabelled,
        "pairs": [
            pair
            | {
                "changed": _changed_predictions(matched, correct, pair["other"]),
                "classes": _class_changes(matched, pair["other"], kind),
            }
            for pair in _compare_with_first(runs, correct, groups)
        ],
        "recipes": _recipe_differences(runs),
    }
    return result | {"caveats": caveats(result, [run.results for run in runs])}


def _correct_clips(rows: Sequence[Row], kind: str) -> np.ndarray:
    """Whether each clip is predicted correctly, (N,) of bool; multi-label: exactly its true classes are predicted."""
    multilabel = kind == "multilabel"
    return np.array([label_set(row["label"], multilabel) == label_set(row["predicted"], multilabel) for row in rows])


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
    runs: Sequence[ComparedRun], correct: Sequence[np.ndarray], groups: np.ndarray | None
) -> list[dict[str, Any]]:
    """A paired test of the first run with each other one; `first` and `other` are indices of runs."""
    comparisons = len(correct) - 1
    pairs = [
        paired_tests.paired_test(correct[0], other, groups=groups, comparisons=comparisons) for other in correct[1:]
    ]
    adjusted = paired_tests.holm([pair.mcnemar_p for pair in pairs])
    unit, marks = "clip" if groups is None else "group", [run.mark for run in runs]
    return [
        asdict(pair)
        | {"first": 0, "other": index, "adjusted_p": p, "verdict": pair.verdict, "disagrees": pair.disagrees(p)}
        | {"words": paired_tests.format_verdict(pair, first=marks[0], other=marks[index], unit=unit)}
        for index, (pair, p) in enumerate(zip(pairs, adjusted, strict=True), 1)
    ]


def _changed_predictions(
    matched: MatchedClips, correct: Sequence[np.ndarray], other: int
) -> dict[str, list[dict[str, Any]]]:
    """Clips that only one of two runs predicts correctly; the most confident wrong predictions first."""
    changed: dict[str, list[dict[str, Any]]] = {"only_first": [], "only_other": []}
    rows = zip(matched.rows[0], matched.rows[other], correct[0], correct[other], strict=True)
    for first_row, other_row, first_correct, other_correct in rows:
        if first_correct != other_correct:
            right_row, wrong_row = (first_row, other_row) if first_correct else (other_row, first_row)
            row = {"path": first_row["path"], "label": first_row["label"], "wrong": wrong_row["predicted"]}
            row |= {"right_probability": right_row["probability"], "wrong_probability": wrong_row["probability"]}
            changed["only_first" if first_correct else "only_other"].append(row)
    order = lambda row: (-row["wrong_probability"], row["path"])  # noqa: E731
    return {side: sorted(rows, key=order) for side, rows in changed.items()}


def _class_changes(matched: MatchedClips, other: int, kind: str) -> list[dict[str, Any]]:
    """Classes in which the correct clips of two runs differ, the largest change first."""
    multilabel = kind == "multilabel"
    classes: dict[str, dict[str, Any]] = {}
    for first_row, other_row in zip(matched.rows[0], matched.rows[other], strict=True):
        truth, first, second = (
            label_set(text, multilabel) for text in (first_row["label"], first_row["predicted"], other_row["predicted"])
        )
        for name in sorted(truth | first | second) if multilabel else truth:
            row = classes.setdefault(name, {"class": name, "clips": 0, "first": 0, "gained": 0, "lost": 0})
            first_correct, other_correct = ((name in predicted) == (name in truth) for predicted in (first, second))
            row["clips"] += name in truth
            row["first"] += first_correct and name in truth
            row["gained"] += other_correct and not first_correct
            row["lost"] += first_correct and not other_correct
    changed = [row for row in classes.values() if row["gained"] or row["lost"]]
    return sorted(changed, key=lambda row: (-abs(row["gained"] - row["lost"]), -row["gained"], row["class"]))


def _recipe_differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str | None]]]:
    """(dotted key, its value in each run) of settings that differ; None for a run whose recipe has no such key."""
    known = [flatten_settings(run.recipe) for run in runs if run.recipe is not None]
    keys = dict.fromkeys(key for recipe in known for key in recipe)
    differing = [key for key in keys if len({recipe.get(key) for recipe in known}) > 1]
    recipes = [{} if run.recipe is None else flatten_settings(run.recipe) for run in runs]
    return [(key, [recipe.get(key) for recipe in recipes]) for key in differing]


def flatten_settings(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested values by dotted key, as an override writes them; a list of plain values is one text."""
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
    constants = {None: "null", True: "true", False: "false"}
    return "{}" if value == {} else constants[value] if value is None or isinstance(value, bool) else str(value)
