"""How good a trained run is on a split: scores with their intervals, written as results.json and predictions.csv."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.checks.split_warnings import warnings_of_set, warnings_of_test
from finetune.data.manifest import Manifest
from finetune.data.splits import SPLITS
from finetune.errors import DataError, RunError, shorten_list
from finetune.evaluation.choose_clips import choose_clips
from finetune.evaluation.contact_sheets import remove_sheets, write_sheets
from finetune.evaluation.other_set import external_set_folder, read_external_set
from finetune.evaluation.task_results import TaskPredictions, task_metrics, write_predictions
from finetune.inference.predict_split import Predictions, Progress, WithFrozenBaseline, predict_rows
from finetune.metrics.calibration import apply_temperature
from finetune.metrics.intervals import jackknife_units
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.view_consensus import CONSENSUS_LABELS
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import CLASSIFICATION_KINDS, DEFAULT_TASK, OutputSpec, primary_task
from finetune.run.checkpoint import load
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.predictions_csv import read_prediction_rows
from finetune.run.read import (
    open_run,
    read_checkpoint_meta,
    read_epochs,
    read_results_file,
    read_skipped,
    read_task_outputs,
)
from finetune.run.results import RESULTS_FORMAT, Results, SeedResult
from finetune.run.write import write_results
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.storage.safe_read import read_json
from finetune.video.dataset import ClipDataset
from finetune.video.row_loader import evaluation_loader


def evaluate(
    run: str | Path,
    overrides: Sequence[str] = (),
    *,
    split: str | None = None,
    views: int | None = None,
    on_error: str | None = None,
    unknown_classes: str = "fail",
    data_root: Path | None = None,
    out: Path | None = None,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Results:
    """Score a run's best checkpoint on each row of a split once; the contents of results.json.

    With `overrides`, `data.manifest=FILE.csv` or `data.folder=DIR`, rows are those of another labelled set: all, or
    those of its own split `split`. Its classes are matched by name; rows with a class that the run does not know
    are refused, or left out where `unknown_classes` is `skip`. `data_root` is where the run's files are now.

    Writes predictions.csv, probabilities.npy, with `pictures` the frames of the clips that the report shows, and,
    last, results.json into `out`: by default `RUN/evaluation` for the test split, `RUN/evaluation/<split>` for
    others, `RUN/evaluation/<name>` for another set. A file that cannot be read fails the evaluation, unless `on_error`
    (by default the recipe's) is `skip`: then it is counted and listed. A task that no row has the label of is left out.
    Raises RunError or DataError.
    """
    folder = Path(run)
    recipe, classes = open_run(folder)
    if split not in {None, *SPLITS}:
        raise RunError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    views = views or recipe.evaluate.views
    manifest = saved_manifest(folder, recipe, classes, data_root=data_root, needs_files=not overrides)
    other = None
    if overrides:
        skips = unknown_classes == "skip"
        other = read_external_set(folder, recipe, classes, overrides, split=split, skip_unknown=skips)
        recipe = recipe.model_copy(update={"data": other.data})
    split = other.split if other else split or "test"
    tested = other.manifest if other else manifest.for_split(split)
    if not len(tested):
        raise RunError(f"{folder}: its data has no rows in the split {split!r}")
    started = time.perf_counter()
    said = _predict_split(folder, recipe, tested, split=split, views=views, progress=progress)
    _check_predictions(folder, tested, said.said, split=split, on_error=on_error or recipe.data.on_error)
    kept, facts = said.said.rows, said.dataset.facts
    fits = views == recipe.evaluate.views and (split == "test" or other is not None)
    labelled = [name for name in said.said.tasks if not tested.tasks or tested.tasks[name].known[kept].any()]
    if not labelled:
        raise DataError(f"{folder}: no row of the split {split!r} has a label of any task")
    answers = {name: task_predictions(folder, name, said, use_temperature=fits) for name in labelled}
    tasks = {}
    for name, each in answers.items():
        trained = manifest.tasks[name].at(manifest.rows("train")) if manifest.tasks else None
        tasks[name] = task_metrics(tested, name, each, facts=facts, trained=trained)
        _add_fitted_values(
            folder, name, tasks[name], fits=views == recipe.evaluate.views, rows=len(manifest.rows("val"))
        )
    groups = None if tested.groups is None else tested.groups[kept]
    warnings = warnings_of_test(manifest, tested, facts, split)
    counts = {name: manifest.counts(name) for name in SPLITS}
    if other:
        warnings = [*other.warnings, *warnings_of_set(tested, facts, split)]
        counts |= {"test": {}, split: tested.counts(split)}
    results: Results = {
        "schema": RESULTS_FORMAT,
        "run": folder.resolve().name,
        "split": split,
        "num_rows": len(kept),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "skipped": [
            {"path": str(tested.path(row)), "reason": reason} for row, reason in sorted(said.said.skipped.items())
        ],
        "tasks": tasks,
        "class_counts": counts,
        "training_skipped": read_skipped(folder),
        "warnings": warnings,
        "protocol": _protocol(recipe, said, views, groups) | ({"data": other.described} if other else {}),
        "seconds": round(time.perf_counter() - started, 2),
    }
    target = out or (external_set_folder(folder, overrides) if other else RunFolder(folder).evaluation(split).path)
    target.mkdir(parents=True, exist_ok=True)
    if other:
        results["source"] = other.source
    elif seeds := _previous_seeds(target, results["protocol"]):
        results["seeds"] = seeds
    write_predictions(target, tested, answers)
    remove_sheets(target)
    if pictures:
        write_contact_sheets(target, said.dataset, multilabel=tasks[primary_task(tasks)]["kind"] == "multilabel")
    write_results(target, results)
    return results


@dataclass(frozen=True, eq=False)
class _SplitInference:
    """What the best weights of a run, and those before its backbone learned, say of the rows that can be read."""

    said: Predictions
    primary: str
    outputs: Mapping[str, OutputSpec]
    frozen_NK: np.ndarray | None
    dataset: ClipDataset
    precision: str


def task_predictions(folder: Path, task: str, asked: _SplitInference, *, use_temperature: bool) -> TaskPredictions:
    """What was said of a task, with what its thresholds name, and as its temperature has it where that
    `use_temperature`.
    """
    frozen_NK = asked.frozen_NK if task == asked.primary else None
    answers = TaskPredictions(asked.said.rows, asked.said.tasks[task], frozen=frozen_NK)
    return apply_fitted(folder, task, asked.outputs[task].kind, answers, use_temperature=use_temperature)


def apply_fitted(
    run: Path, task: str, kind: str, answers: TaskPredictions, *, use_temperature: bool
) -> TaskPredictions:
    """The answers with what the run's own thresholds name, and as its temperature has them where that
    `use_temperature`.
    """
    multilabel, predictions_NK = kind == "multilabel", answers.said
    predicted_NK = predictions_NK >= read_thresholds(run, task) if multilabel else None
    temperature = read_temperature(run, task) if use_temperature and kind in CLASSIFICATION_KINDS else None
    cooled_NK = None if temperature is None else apply_temperature(predictions_NK, temperature, multilabel=multilabel)
    return replace(answers, named=predicted_NK, calibrated=cooled_NK)


def _add_fitted_values(folder: Path, name: str, task: dict[str, Any], *, fits: bool, rows: int) -> None:
    """What of a task was fitted on the split val."""
    if task["kind"] == "multilabel":
        for row, threshold in zip(task["per_class"], read_thresholds(folder, name), strict=True):
            row["threshold"] = float(threshold)
    if task["kind"] in CLASSIFICATION_KINDS:
        task["temperature"] = read_temperature(folder, name) if fits else None
    if "calibrated" in task:
        task["calibrated"] |= {"temperature": task["temperature"], "rows": rows}


def _predict_split(
    folder: Path, recipe: Recipe, tested: Manifest, *, split: str, views: int, progress: Progress | None
) -> _SplitInference:
    device = resolve_device(recipe.train.device)
    model, frozen = load(folder).to(device), _load_frozen_baseline(folder, recipe)
    precision = resolve_precision(recipe.train.precision, device)
    loader, bad = evaluation_loader(tested, split, recipe, size=model.size, views=views)
    with loader:
        beside = WithFrozenBaseline(loader, None if frozen is None else frozen.to(device), precision)
        said = predict_rows(model, beside, precision=precision, progress=progress)
    frozen_NK = None if frozen is None else beside.probs(said.rows)
    said = replace(said, skipped=bad | said.skipped)
    return _SplitInference(said, model.primary, model.outputs, frozen_NK, loader.dataset, precision)


def _check_predictions(folder: Path, tested: Manifest, said: Predictions, *, split: str, on_error: str) -> None:
    """Raise DataError where rows cannot be read, or where what is said of them is no number."""
    if said.skipped and on_error == "fail":
        raise DataError(
            "\n".join(said.skipped.values())
            + f"\n{len(said.skipped)} of {len(tested)} files of the split {split!r} cannot be read; "
            "mend or remove them, or leave them out with --on-error skip"
        )
    if not len(said.rows):
        raise DataError(f"{folder}: none of the {len(tested)} files of the split {split!r} can be read")
    finite_N = np.all([np.isfinite(values).all(1) for values in said.tasks.values()], axis=0)
    if not finite_N.all():
        odd = [str(tested.path(row)) for row in said.rows[~finite_N]]
        raise DataError(
            f"{folder}: what the model says of {shorten_list(odd)} is no number; train in train.precision=fp32"
        )


def write_contact_sheets(target: Path, dataset: ClipDataset, *, multilabel: bool) -> None:
    """Contact sheets of the clips that the report of predictions.csv shows."""
    answers = read_prediction_rows(target)
    if answers is None:  # no task has classes
        return
    write_sheets(target, dataset, [clip.path for clip in choose_clips(answers, multilabel=multilabel).clips()])


def _load_frozen_baseline(folder: Path, recipe: Recipe) -> VideoClassifier | None:
    """The model as it was before its backbone first learned, where a head had been trained on pretrained features."""
    checkpoint = RunFolder(folder).checkpoint("start")
    if recipe.model.weights == "none" or not checkpoint.meta.is_file():
        return None
    before = read_checkpoint_meta(checkpoint).get("epoch") or 0
    learned = {stage for record in read_epochs(folder)[:before] for stage in record.get("learning", [])}
    return load(folder, checkpoint="start") if learned and learned <= set(HEAD_STAGES) else None


def _previous_seeds(target: Path, protocol: dict[str, Any]) -> list[SeedResult]:
    """The runs with other seeds that an earlier evaluation with the same protocol lists."""
    try:
        before = read_results_file(EvaluationFolder(target).results)
    except RunError:
        return []
    return before.get("seeds", []) if before.get("protocol") == protocol else []


def read_temperature(folder: Path, task: str = DEFAULT_TASK) -> float | None:
    """That which brings a run's probabilities nearest to how often it is right, fitted on its val rows; None: none."""
    return _best_checkpoint_meta(folder, task).get("temperature")


def read_thresholds(folder: Path, task: str = DEFAULT_TASK) -> np.ndarray:
    """For each class (K,) the probability from which on a run names it, chosen on its val rows; else one half."""
    files = RunFolder(folder)
    names = read_task_outputs(folder)[task].names if files.tasks.is_file() else read_json(files.classes, list[str])
    thresholds = _best_checkpoint_meta(folder, task).get("thresholds") or [0.5] * len(names)
    if len(thresholds) != len(names):
        raise RunError(f"{folder}: has {len(thresholds)} thresholds for {len(names)} classes; train again")
    return np.array(thresholds)


def _best_checkpoint_meta(folder: Path, task: str) -> dict[str, Any]:
    meta: dict[str, Any] = {**read_checkpoint_meta(RunFolder(folder).checkpoint("best"))}
    return meta["tasks"].get(task, {}) if "tasks" in meta else meta


def _protocol(recipe: Recipe, said: _SplitInference, views: int, groups: np.ndarray | None) -> dict[str, Any]:
    return {
        "checkpoint": "best",
        "views": views,
        **recipe.clip.model_dump(include={"num_frames", "sampling", "frame_stride", "fit"}),
        "size": said.dataset.clip.size,
        "consensus": CONSENSUS_LABELS[recipe.evaluate.consensus].partition("," if recipe.data.multilabel else "\n")[0],
        "decoder": "pyav" if recipe.data.packed is None else f"the pack {recipe.data.packed}",
        "precision": said.precision,
        "interval": describe_interval(groups, len(said.said.rows)),
    }


def describe_interval(groups: np.ndarray | None, rows: int) -> str:
    """How the intervals of a task's figures were made."""
    units = jackknife_units(groups, rows)
    if groups is None:
        return f"95 %, jackknife over {rows} clips, Student's t"
    number, even = len(np.unique(groups)), round(units.effective, 1)
    uneven = f" (uneven: they count as {even:g} of equal size)" if even < 0.95 * number else ""
    return f"95 %, jackknife over {number} groups{uneven}, Student's t"
