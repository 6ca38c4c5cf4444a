"""Evaluate a trained run on a split, or on another labelled set: metrics with confidence intervals, and their files."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.arguments import check_arguments, check_range
from finetune.checks.split_warnings import warnings_of_set, warnings_of_test
from finetune.data.intervals import row_noun
from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.data.splits import SPLITS
from finetune.data.unknown_classes import unknown_rows
from finetune.errors import DataError, RunError, shorten_list, suggest_similar
from finetune.evaluation.external_set import external_set_folder, read_external_set
from finetune.evaluation.open_set import open_set_results
from finetune.evaluation.retrieval import check_retrieval, retrieval_results, retrieves_by_default
from finetune.evaluation.task_results import (
    TaskPredictions,
    add_own_metric,
    apply_fitted,
    task_metrics,
    with_shown_detections,
)
from finetune.evaluation.write_evaluation import build_results, describe_interval, write_evaluation
from finetune.inference.clip_vectors import ClipVectors
from finetune.inference.exported import InferenceModel, inference_precision, load_for_inference, resolve_views
from finetune.inference.mask_counts import with_mask_counts
from finetune.inference.predict_split import (
    Predictions,
    Progress,
    WithFrozenBaseline,
    known_scores_record,
    predict_rows,
)
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.view_consensus import CONSENSUS_LABELS
from finetune.recipe.load import list_overrides
from finetune.recipe.object_fields import DETECTION_FIELDS
from finetune.recipe.schema import MAX_VIEWS, Recipe
from finetune.recipe.tasks import CLASSIFICATION_KINDS, primary_task
from finetune.run.checkpoint import load_model
from finetune.run.fitted import Fitted, read_fitted
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run, open_run, read_checkpoint_meta, read_epochs, read_results_file, read_skipped
from finetune.run.results import Results, SeedResult, TaskResults
from finetune.run.write import add_known_scores
from finetune.video.dataset import ClipDataset
from finetune.video.file_facts import FileFacts
from finetune.video.row_loader import evaluation_loader


@check_arguments
def evaluate(
    run: str | Path | Run,
    overrides: str | Sequence[str] = (),
    *,
    split: str | None = None,
    views: int | None = None,
    on_error: Literal["fail", "skip"] | None = None,
    unknown_classes: Literal["fail", "skip", "score"] = "fail",
    retrieval: bool | None = None,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Results:
    """Evaluate a run's best checkpoint on all rows of a split; the contents of results.json.

    With `overrides`, `data.manifest=FILE.csv` or `data.folder=DIR`, the rows are those of another labelled set: all
    rows, or those of its own split `split`. Its classes are matched by name; rows with a class that the run does not
    know are refused, omitted if `unknown_classes` is `skip`, or with `score` scored as unknown, like those of classes
    that the recipe left out of training (`evaluate.unknown`). With `retrieval`, by default as in the recipe, results
    say how well clips find others of their class. `data_root` is where the run's files are now.

    Writes predictions.csv, probabilities.npy, with `pictures` the frames of the clips that the report shows, and,
    last, results.json into `out`: by default `RUN/evaluation` for the test split, `RUN/evaluation/<split>` for
    others, `RUN/evaluation/<name>` for another set. A file that cannot be read fails the evaluation, unless `on_error`
    (by default the recipe's) is `skip`: then it is counted and listed. A task without any labels is omitted. The scores
    of val rows, for `predict --reject`, are added to a run of an older version that lacks them.
    Raises RunError or DataError.
    """
    check_range(1 if views is None else views, 1, MAX_VIEWS, name="views")
    opened, overrides = open_run(run), list_overrides(overrides)
    if split is not None and split not in SPLITS:
        raise RunError(f"there is no split {split!r}{suggest_similar(split, SPLITS)}; there are {', '.join(SPLITS)}")
    if retrieval:
        check_retrieval(opened)
    own = saved_manifest(opened, data_root=data_root, needs_files=not overrides)
    other = None
    if overrides:
        other = read_external_set(opened, own, overrides, split=split, unknown_classes=unknown_classes)
        opened = replace(opened, recipe=opened.recipe.model_copy(update={"data": other.data}))
    recipe, split = opened.recipe, other.split if other else split or "test"
    tested = other.manifest if other else own.for_split(split)
    if not len(tested):
        raise RunError(f"{opened.folder}: its data has no rows in the split {split!r}")
    started, views = time.perf_counter(), resolve_views(opened, views)
    vectors = ClipVectors() if (retrieves_by_default(opened) if retrieval is None else retrieval) else None
    inference = _predict_split(opened, tested, split=split, views=views, vectors=vectors, progress=progress)
    rows, facts = inference.predictions.rows, inference.dataset.facts
    _check_predictions(opened, tested, inference.predictions, split=split, on_error=on_error or recipe.data.on_error)
    fitted, fitted_views = read_fitted(opened), views == recipe.evaluate.views
    if split == "val" and fitted_views and other is None:
        _add_known_scores(opened, inference.predictions)
    open_set, unscored = _score_unknown(
        opened, inference, other.manifest if other else own, on_error=on_error, progress=progress
    )
    use_temperature = fitted_views and (split == "test" or other is not None)
    predictions = _task_predictions(opened, tested, inference, fitted, use_temperature=use_temperature)
    if not predictions:
        raise DataError(f"{opened.folder}: no row of the split {split!r} has a label of any task")
    tasks = _score_tasks(tested, predictions, own, facts=facts)
    if open_set is not None:
        tasks[inference.model.primary]["open_set"] = open_set
    own_metric_warnings = add_own_metric(recipe.evaluate.metric, tested, predictions, tasks)
    for name, task in tasks.items():
        _add_fitted(task, fitted[name], fitted_views=fitted_views, rows=len(own.rows("val")))
    class_counts = {name: own.counts(name) for name in SPLITS}
    protocol = _protocol(recipe, inference, views, tested)
    if other:
        warnings = [*other.warnings, *warnings_of_set(tested, facts, split)]
        class_counts |= {"test": {}, split: tested.counts(split)}
        protocol["data"] = other.described
    else:
        warnings = warnings_of_test(own, tested, facts, split)
    skipped = sorted(inference.predictions.skipped.items())
    results = build_results(
        opened.folder,
        tested,
        rows,
        split=split,
        skipped=[{"path": tested.clip_name(row), "reason": reason} for row, reason in skipped],
        tasks=tasks,
        class_counts=class_counts,
        training_skipped=read_skipped(opened.folder),
        warnings=[*warnings, *unscored, *own_metric_warnings],
        protocol=protocol,
        seconds=time.perf_counter() - started,
    )
    own_folder = RunFolder(opened.folder).evaluation(split).path
    target = Path(out or (external_set_folder(opened.folder, overrides) if other else own_folder))
    if vectors is not None:
        results["retrieval"] = retrieval_results(tested, vectors, task=inference.model.primary)
    if other:
        results["source"] = other.source
    elif seeds := _previous_seeds(target, protocol):
        results["seeds"] = seeds
    shown = inference.dataset if pictures else None
    masks = {name: inference.predictions.tasks[name] for name, task in tasks.items() if task["kind"] == "segment"}
    write_evaluation(target, results, tested, predictions, pictures_of=shown, masks=masks)
    return results


def _add_known_scores(run: Run, predictions: Predictions) -> None:
    """Add the scores of the val rows to a run of an older version, for `predict --reject`."""
    if (scores := known_scores_record(predictions)) and RunFolder(run.folder).checkpoint("best").exists():
        add_known_scores(run.folder, scores)


@dataclass(frozen=True, eq=False)
class _SplitInference:
    """Predictions of the best weights, and of those before the backbone was trained, for the rows that can be read."""

    predictions: Predictions
    model: InferenceModel
    frozen_NK: np.ndarray | None  # of the primary task
    dataset: ClipDataset
    precision: str


def _predict_split(
    run: Run, tested: Manifest, *, split: str, views: int, vectors: ClipVectors | None, progress: Progress | None
) -> _SplitInference:
    recipe = run.recipe
    model, frozen = load_for_inference(run), _load_frozen_baseline(run)
    precision = inference_precision(model, recipe.train.precision)
    loader, bad = evaluation_loader(tested, split, recipe, size=model.size, views=views)
    with loader:
        batches = WithFrozenBaseline(loader, None if frozen is None else frozen.to(model.device), precision)
        predictions = predict_rows(model, batches, precision=precision, progress=progress, vectors=vectors)
    frozen_NK = None if frozen is None else batches.probs(predictions.rows)
    predictions = replace(predictions, skipped=bad | predictions.skipped)
    return _SplitInference(predictions, model, frozen_NK, loader.dataset, precision)


def _score_unknown(
    run: Run, inference: _SplitInference, manifest: Manifest, *, on_error: str | None, progress: Progress | None
) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    """The results `open_set` for the unknown classes of a manifest, None without them; a warning if no row fits."""
    dataset, recipe = inference.dataset, run.recipe
    unknown = unknown_rows(manifest, dataset.split)
    if unknown is None:
        return None, [] if manifest.unknown is None else [_no_unknown_row_warning(manifest.unknown, dataset.split)]
    loader, bad = evaluation_loader(unknown, dataset.split, recipe, size=inference.model.size, views=dataset.views)
    with loader:
        scored = predict_rows(inference.model, loader, precision=inference.precision, progress=progress)
    scored = replace(scored, skipped=bad | scored.skipped)
    _check_predictions(run, unknown, scored, split=dataset.split, on_error=on_error or recipe.data.on_error)
    fitted_views = dataset.views == recipe.evaluate.views
    val_scores = read_fitted(run)[inference.model.primary].known_scores if fitted_views else None
    known = inference.predictions
    return open_set_results(dataset.manifest, known, unknown, scored, val_scores=val_scores), []


def _no_unknown_row_warning(unknown: Manifest, split: str) -> dict[str, str]:
    return {
        "what": f"No clip of the unknown classes {shorten_list(unknown.classes)} is scored: the groups of all of them "
        f"have clips outside of {split}.",
        "do": f"Put clips of these classes into groups of {split}.",
    }


def _load_frozen_baseline(run: Run) -> VideoClassifier | None:
    """The model as it was before its backbone was trained, if its head had already been trained on frozen features."""
    checkpoint = RunFolder(run.folder).checkpoint("start")
    if not run.outputs[primary_task(run.outputs)].is_categorical:
        return None
    if run.recipe.model.weights == "none" or not checkpoint.meta.is_file():
        return None
    epochs = read_checkpoint_meta(checkpoint).get("epoch") or 0
    learned = {stage for record in read_epochs(run.folder)[:epochs] for stage in record.get("learning", [])}
    return load_model(run, "start") if learned and learned <= set(HEAD_STAGES) else None


def _check_predictions(run: Run, tested: Manifest, predictions: Predictions, *, split: str, on_error: str) -> None:
    """Raise DataError where rows cannot be read, or a prediction is not finite."""
    rows = f"{len(tested)} {row_noun(tested.intervals, tested.boxes)}s of the split {split!r}"
    if predictions.skipped and on_error == "fail":
        raise DataError(
            "\n".join(predictions.skipped.values()) + f"\n{len(predictions.skipped)} of {rows} cannot be read; "
            "fix or remove them, or skip them with --on-error skip"
        )
    if not len(predictions.rows):
        raise DataError(f"{run.folder}: none of the {rows} can be read")
    finite_N = np.all([_finite_rows(values) for values in predictions.tasks.values()], axis=0)
    if not finite_N.all():
        files = shorten_list([tested.clip_name(row) for row in predictions.rows[~finite_N]])
        raise DataError(f"{run.folder}: predictions for {files} are not finite; train with train.precision=fp32")


def _finite_rows(values: np.ndarray) -> np.ndarray:
    """Whether the predictions of each row, (N, …), are finite; the motion of detections (N, D, 8) may be missing."""
    if values.ndim == 3 and values.shape[2] == len(DETECTION_FIELDS):
        values = values[..., : DETECTION_FIELDS.index("dx")]
    return np.isfinite(values.reshape(len(values), -1)).all(1)


def _task_predictions(
    run: Run, tested: Manifest, inference: _SplitInference, fitted: dict[str, Fitted], *, use_temperature: bool
) -> dict[str, TaskPredictions]:
    """Predictions of each task that at least one row has a label of, with thresholds and temperature applied."""
    counted = with_mask_counts(inference.predictions, inference.dataset)
    rows, by_task = counted.rows, {}
    for task, values_NK in counted.tasks.items():
        if tested.tasks and not tested.tasks[task].known[rows].any():
            continue
        frozen_NK = inference.frozen_NK if task == inference.model.primary else None
        predictions = TaskPredictions(rows, values_NK, frozen=frozen_NK)
        kind = run.outputs[task].kind
        predictions = apply_fitted(kind, predictions, fitted[task], use_temperature=use_temperature)
        threshold = fitted[task].score_threshold
        by_task[task] = with_shown_detections(
            tested, task, predictions, fitted=threshold, facts=inference.dataset.facts
        )
    return by_task


def _score_tasks(
    tested: Manifest, predictions: dict[str, TaskPredictions], own: Manifest, *, facts: FileFacts
) -> dict[str, TaskResults]:
    trained: dict[str, Labels] = {name: labels.at(own.rows("train")) for name, labels in own.tasks.items()}
    return {
        name: task_metrics(tested, name, task, facts=facts, trained=trained.get(name))
        for name, task in predictions.items()
    }


def _add_fitted(task: TaskResults, fitted: Fitted, *, fitted_views: bool, rows: int) -> None:
    """Add the thresholds and the temperature fitted on the `rows` rows of the split val.

    A temperature is for one number of views; it is None where `fitted_views` is false.
    """
    if fitted.thresholds_K is not None:
        for row, threshold in zip(task["per_class"], fitted.thresholds_K, strict=True):
            row["threshold"] = float(threshold)
    if task["kind"] in CLASSIFICATION_KINDS:
        task["temperature"] = fitted.temperature if fitted_views else None
    if "calibrated" in task:
        task["calibrated"] |= {"temperature": task["temperature"], "rows": rows}


def _protocol(recipe: Recipe, inference: _SplitInference, views: int, tested: Manifest) -> dict[str, Any]:
    rows = inference.predictions.rows
    return {
        "checkpoint": "best",
        "views": views,
        **recipe.clip.model_dump(include={"num_frames", "sampling", "frame_stride", "fit"}),
        "size": inference.dataset.clip.size,
        "consensus": CONSENSUS_LABELS[recipe.evaluate.consensus].partition("," if recipe.data.multilabel else "\n")[0],
        "decoder": "pyav" if recipe.data.packed is None else f"the pack {recipe.data.packed}",
        "precision": inference.precision,
        "interval": describe_interval(None if tested.groups is None else tested.groups[rows], len(rows)),
    }


def _previous_seeds(target: Path, protocol: dict[str, Any]) -> list[SeedResult]:
    """The runs with other seeds that an earlier evaluation with the same protocol lists."""
    try:
        before = read_results_file(EvaluationFolder(target).results)
    except RunError:
        return []
    return before.get("seeds", []) if before.get("protocol") == protocol else []
