"""Predict new videos with a trained run; the numbers equal those that evaluation gives for the same file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.labels import LABEL_SEPARATOR
from finetune.data.read import find_media, read_table
from finetune.errors import DataError, RunError, VideoError
from finetune.inference.forward import predict_batch
from finetune.inference.predict_split import to_source_pixels
from finetune.metrics.calibration import apply_temperature
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import DEFAULT_COLUMNS, OutputSpec, primary_task
from finetune.run.checkpoint import load_model
from finetune.run.fitted import Fitted, read_fitted
from finetune.run.folder import RunFolder
from finetune.run.predictions_csv import top_classes
from finetune.run.read import Run, open_run
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.storage.numbered_images import IMAGE_SUFFIXES
from finetune.video.dataset import FrameSource, read_views, view_placements
from finetune.video.decode.probe import VideoInfo
from finetune.video.probe_files import probe_many

CHECKING, PREDICTING = "checking files", "predicting"


@dataclass(frozen=True)
class TaskPrediction:
    """The prediction of one task: classes with their probabilities, likeliest first, or numbers by name.

    Numbers have six digits. A box has x, y, w and h: left, top, width and height in pixels of the video, at its frame
    `frame`, counted from 0. Motion has dx and dy, in pixels per frame, to the right and down.
    """

    kind: str
    top_k: tuple[tuple[str, float], ...] = ()
    named: tuple[str, ...] | None = None  # where a clip may have several classes: those above their thresholds
    numbers: Mapping[str, float] = field(default_factory=dict)
    frame: int | None = None

    @property
    def predicted(self) -> str:
        if self.named is not None:
            return LABEL_SEPARATOR.join(self.named)
        return self.top_k[0][0] if self.top_k else ""


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one video with their probabilities, likeliest first.

    With several tasks they are those of the primary task, and empty if no task has classes; `tasks` has all tasks.
    """

    path: Path
    top_k: tuple[tuple[str, float], ...]
    named: tuple[str, ...] | None = None  # where a clip may have several classes: those above their thresholds
    tasks: Mapping[str, TaskPrediction] = field(default_factory=dict)

    @property
    def predicted(self) -> str:
        """The predicted class, or classes; empty if no task has classes."""
        if self.named is not None:
            return LABEL_SEPARATOR.join(self.named)
        return self.top_k[0][0] if self.top_k else ""

    @property
    def probability(self) -> float | None:
        """The probability of the likeliest class; None if no task has classes."""
        return self.top_k[0][1] if self.top_k else None


class PredictionList(list[Prediction]):
    """Predictions of the readable files, in order; `skipped` has the reason for each of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: dict[Path, str] = {}


def predict(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    views: int | None = None,
    top_k: int = 5,
    calibrated: bool = False,
    image_sequences: bool | None = None,
    on_error: str = "fail",
    progress: Callable[[int, int], None] | None = None,
) -> PredictionList:
    """Predictions for files, and for the clips within folders, in order.

    With `image_sequences` a folder of numbered images is one clip, else each image is a clip; None: as in training.

    `views` is by default that of the recipe. `calibrated` applies the temperatures that were fitted on the split val;
    a run without one raises RunError. `progress` is called with (files done, files).

    With `on_error="fail"`, files that cannot be read raise a DataError that names all of them, before any prediction;
    with `"skip"` they are omitted and listed in `skipped` of the result.
    """
    predictions = PredictionList()

    def show(what: str, done: int, total: int | None) -> None:
        if progress is not None and what == PREDICTING:
            progress(done, total or 0)

    for file, result in iter_predictions(
        open_run(run),
        paths,
        views=views,
        top_k=top_k,
        calibrated=calibrated,
        image_sequences=image_sequences,
        on_error=on_error,
        progress=show,
    ):
        if isinstance(result, VideoError):
            predictions.skipped[file] = str(result)
        else:
            predictions.append(result)
    return predictions


def iter_predictions(
    run: Run,
    paths: Sequence[str | Path],
    *,
    views: int | None,
    top_k: int,
    calibrated: bool,
    image_sequences: bool | None,
    on_error: str,
    progress: Callable[[str, int, int | None], None],
) -> Iterator[tuple[Path, Prediction | VideoError]]:
    """The predictions of `predict`, file by file; with `on_error="skip"`, the error of a file that cannot be read.

    `progress` is called with (CHECKING or PREDICTING, files done, files).
    """
    if on_error not in {"fail", "skip"}:
        raise RunError(f"on_error is 'fail' or 'skip', not {on_error!r}")
    recipe, model, outputs, fitted = run.recipe, load_model(run), run.outputs, read_fitted(run)
    if calibrated:
        _check_temperatures(run, fitted, views)
    together = reads_image_sequences(run) if image_sequences is None else image_sequences
    files = [file for path in paths for file in find_media(Path(path), image_sequences=together)]
    infos = probe_many(files, progress=partial(progress, CHECKING))
    bad = [str(info) for info in infos if isinstance(info, VideoError)]
    if bad and on_error == "fail":
        raise DataError("\n".join(bad))
    device = resolve_device(recipe.train.device)
    predictor = Predictor(model.to(device), recipe, views or recipe.evaluate.views)
    if not calibrated:
        fitted = {task: replace(of_task, temperature=None) for task, of_task in fitted.items()}
    for number, (file, info) in enumerate(zip(files, infos, strict=True), 1):
        try:
            if isinstance(info, VideoError):
                raise info
            values_by_task, middle = predictor(file, info), info.num_frames // 2
            tasks = {
                task: _task_prediction(outputs[task], predictions_K, top_k, fitted=fitted[task], middle=middle)
                for task, predictions_K in values_by_task.items()
            }
            first = tasks[primary_task(outputs)]
            yield file, Prediction(file, first.top_k, first.named, tasks if recipe.tasks else {})
        except VideoError as error:
            if on_error == "fail":
                raise
            yield file, error
        progress(PREDICTING, number, len(files))


def reads_image_sequences(run: Run) -> bool:
    """Whether a folder of numbered images is one clip for a run; False if it was trained on single images only."""
    trained = read_table(RunFolder(run.folder).manifest).get("path", [""])
    only_images = all(Path(path).suffix.lower() in IMAGE_SUFFIXES for path in trained)
    return run.recipe.data.image_sequences and not only_images


class Predictor:
    """Predicts one video at a time, as evaluation does: probabilities or numbers (K,) of each task."""

    def __init__(self, model: VideoClassifier, recipe: Recipe, views: int) -> None:
        self.model = model
        self.clip = recipe.clip.model_copy(update={"size": model.size})
        self.views = views
        self.source = FrameSource(image_rate=recipe.data.image_rate)
        self.precision = resolve_precision(recipe.train.precision, next(model.parameters()).device)

    def __call__(self, file: Path, info: VideoInfo) -> dict[str, np.ndarray]:
        of_video: dict[str, Any] = {
            "views": self.views,
            "num_frames": info.num_frames,
            "video_size": (info.height, info.width),
            "source": self.source,
        }
        clips_VTCHW = read_views(file, self.clip, **of_video)
        outputs = predict_batch(self.model, clips_VTCHW.unsqueeze(0), precision=self.precision)
        placements = partial(view_placements, file, self.clip, **of_video)
        of_video_by_task = {task: values[0].numpy() for task, values in outputs.items()}
        predictions = to_source_pixels(self.model.outputs, of_video_by_task, placements)
        if not all(np.isfinite(values).all() for values in predictions.values()):
            raise DataError(f"{file}: its predictions are not finite; train with train.precision=fp32")
        return predictions


def _task_prediction(
    output: OutputSpec,
    predictions_K: np.ndarray,
    top_k: int,
    *,
    fitted: Fitted,
    middle: int,
) -> TaskPrediction:
    if not output.is_categorical:
        names = DEFAULT_COLUMNS.get(output.kind, output.names)
        numbers = {name: float(f"{value:.6g}") for name, value in zip(names, predictions_K, strict=True)}
        return TaskPrediction(output.kind, numbers=numbers, frame=middle if output.kind == "box" else None)
    named = None  # by the uncalibrated probabilities: a temperature changes no predicted class
    if fitted.thresholds_K is not None:
        above_K = predictions_K >= fitted.thresholds_K
        named = tuple(name for name, is_above in zip(output.names, above_K, strict=True) if is_above)
    if fitted.temperature is not None:
        predictions_K = apply_temperature(predictions_K, fitted.temperature, multilabel=output.kind == "multilabel")
    return TaskPrediction(output.kind, tuple(top_classes(predictions_K, output.names, count=top_k)), named)


def _check_temperatures(run: Run, fitted: Mapping[str, Fitted], views: int | None) -> None:
    """Raise RunError where no task has a temperature for this number of views; None: the number it was fitted for."""
    if all(task.temperature is None for task in fitted.values()):
        raise RunError(f"{run.folder}: has no temperature, which training fits on the split val; omit --calibrated")
    fitted_views = run.recipe.evaluate.views
    if views is not None and views != fitted_views:
        raise RunError(f"{run.folder}: its temperature was fitted with {fitted_views} views, not {views}; omit --views")
