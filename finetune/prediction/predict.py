"""Predict new videos with a trained run; the numbers equal those that evaluation gives for the same file."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from finetune.arguments import check_arguments, check_range
from finetune.data.intervals import clip_name
from finetune.data.labels import LABEL_SEPARATOR
from finetune.errors import DataError, RunError, VideoError, shorten_list
from finetune.inference.exported import InferenceModel, inference_precision, load_for_inference, resolve_views
from finetune.inference.forward import clip_scores, decode_outputs, view_logits
from finetune.inference.predict_split import to_source_pixels
from finetune.metrics.calibration import apply_temperature
from finetune.metrics.open_set import ScoreName
from finetune.model.classifier import VideoClassifier
from finetune.prediction.inputs import InputVideo, find_inputs, list_inputs
from finetune.prediction.rejection import NONE_OF_THE_CLASSES, choose_rejection
from finetune.recipe.schema import MAX_VIEWS, Recipe
from finetune.recipe.tasks import DEFAULT_COLUMNS, DENSE_KINDS, OutputSpec, primary_task
from finetune.run.fitted import Fitted, read_fitted
from finetune.run.manifest import reads_image_sequences
from finetune.run.predictions_csv import top_classes
from finetune.run.read import Run, open_run
from finetune.runtime.device import resolve_device
from finetune.video.dataset import read_views, view_placements
from finetune.video.decode.probe import VideoInfo

VideoLike = str | Path | np.ndarray | Tensor
Interval = tuple[str | Path, float | None, float | None]  # file, start and end in seconds
MIN_FRAME_RATE, MAX_FRAME_RATE = 1e-3, 1e6  # frames per second
CHECKING, PREDICTING = "checking files", "predicting"


@dataclass(frozen=True)
class TaskPrediction:
    """The prediction of one task: classes with their probabilities, likeliest first, or numbers by name.

    Numbers have six digits. A box has x, y, w and h: left, top, width and height in pixels of the video, at its frame
    `frame`, counted from 0 in the file. Motion has dx and dy, in pixels per frame, to the right and down.
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


@check_arguments
@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one video with their probabilities, likeliest first.

    `path` is the file; for an array of frames it is `frames[i]`, where i is its position in the list. With several
    tasks the classes are those of the primary task, and empty if no task has classes; `tasks` has all tasks. Of an
    interval, `start` and `end` are in seconds; a whole file has 0 and infinity. `rejected` says whether the clip looks
    like none of the classes: it is None without the argument `reject` of `predict`. `boxes` is that of a row of a CSV
    that follows an object.
    """

    path: Path
    top_k: tuple[tuple[str, float], ...]
    named: tuple[str, ...] | None = None  # where a clip may have several classes: those above their thresholds
    tasks: Mapping[str, TaskPrediction] = field(default_factory=dict)
    start: float = 0.0
    end: float = math.inf
    rejected: bool | None = None
    boxes: str = ""

    @property
    def name(self) -> str:
        """The path, the interval if it is not the whole file, and the box of an object that the clip follows."""
        return clip_name(self.path, self.start, self.end, self.boxes)

    def __repr__(self) -> str:
        likeliest = ", ".join(f"{name} {probability:.3f}" for name, probability in self.top_k)
        tasks = f"tasks {', '.join(self.tasks)}" if self.tasks else ""
        rejected = f"{NONE_OF_THE_CLASSES}, nearest" if self.rejected else ""
        return f"Prediction({self.name!r}: {'; '.join(filter(None, (rejected, likeliest, tasks)))})"

    @property
    def predicted(self) -> str:
        """The predicted class, or classes; empty if no task has classes. Of a rejected clip, NONE_OF_THE_CLASSES."""
        if self.rejected:
            return NONE_OF_THE_CLASSES
        if self.named is not None:
            return LABEL_SEPARATOR.join(self.named)
        return self.top_k[0][0] if self.top_k else ""

    @property
    def probability(self) -> float | None:
        """The probability of the likeliest class; None if no task has classes."""
        return self.top_k[0][1] if self.top_k else None


class PredictionList(list[Prediction]):
    """Predictions of the readable clips, in order; `skipped` has the reason for each of the others, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: dict[Path, str] = {}


@check_arguments
def predict(
    run: str | Path | Run | VideoClassifier,
    videos: VideoLike | Iterable[VideoLike | Interval],
    *,
    views: int | None = None,
    top_k: int = 5,
    calibrated: bool = False,
    reject: float | None = None,
    image_sequences: bool | None = None,
    frame_rate: float | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    progress: Callable[[int, int], None] | None = None,
) -> PredictionList:
    """Predictions for files, for the clips within folders, for intervals, and for arrays of frames, in order.

    `run` is a run folder, or a model from `load` or after `fit`, which is set to evaluation mode; a model is not read
    again for each call. `videos` is one video or several: files, folders, CSV files with columns
    path[,start,end][,boxes], and tuples (path, start, end), which are intervals of a file in seconds; None is its
    beginning or end. An array or a tensor holds the frames of one video, uint8 RGB (T, H, W, 3), of which the run's
    frames are sampled like those of a file; `frame_rate`, in frames per second, is needed where the run samples by
    time.

    With `image_sequences` a folder of numbered images is one clip, else each image is a clip; None: as in training.

    `views` clips of each video, 1 to 1000, are by default as many as in the recipe; the `top_k` likeliest classes are
    given. `calibrated` applies the temperatures that were fitted on the split val; a run without one raises RunError.
    With `reject`, a share above 0 and below 1, a clip is rejected as none of the classes if its largest probability,
    uncalibrated, is below that of this share of the val clips; see `choose_rejection`.
    `progress` is called with (files done, files).

    With `on_error="fail"`, files that cannot be read raise a DataError that names all of them, before any prediction;
    with `"skip"` they are omitted and listed in `skipped` of the result.
    """
    predictions = PredictionList()

    def show(what: str, done: int, total: int | None) -> None:
        if progress is not None and what == PREDICTING:
            progress(done, total or 0)

    model, folder = (run, run_of_model(run)) if isinstance(run, VideoClassifier) else (None, run)
    for file, result in iter_predictions(
        open_run(folder),
        list_inputs(videos),
        model=model,
        frame_rate=frame_rate,
        views=views,
        top_k=top_k,
        calibrated=calibrated,
        reject=reject,
        image_sequences=image_sequences,
        on_error=on_error,
        progress=show,
    ):
        if isinstance(result, VideoError):
            predictions.skipped[file] = str(result)
        else:
            predictions.append(result)
    return predictions


def run_of_model(model: VideoClassifier) -> Path:
    """The run folder that a model comes from. Raises RunError for one that was built."""
    if model.run_folder is None:
        raise RunError("this model has no run folder, whose recipe says how clips are read; take one from fit or load")
    return model.run_folder


def iter_predictions(
    run: Run,
    inputs: Sequence[Any],
    *,
    model: InferenceModel | None = None,
    frame_rate: float | None = None,
    views: int | None,
    top_k: int,
    calibrated: bool,
    image_sequences: bool | None,
    on_error: str,
    reject: float | None = None,
    progress: Callable[[str, int, int | None], None],
) -> Iterator[tuple[Path, Prediction | VideoError]]:
    """The predictions of `predict`, video by video; with `on_error="skip"`, the error of a file that cannot be read.

    `progress` is called with (CHECKING or PREDICTING, files done, files).
    """
    check_range(top_k, 1, name="top_k")
    check_range(1 if frame_rate is None else frame_rate, MIN_FRAME_RATE, MAX_FRAME_RATE, name="frame_rate")
    check_range(1 if views is None else views, 1, MAX_VIEWS, name="views")
    if dense := [name for name, output in run.outputs.items() if output.kind in DENSE_KINDS]:
        raise RunError(
            f"{run.folder}: its tasks predict objects or pixels of frames ({shorten_list(dense)}), not clips; "
            "`finetune predict` and ft.predict_objects predict these"
        )
    recipe, fitted = run.recipe, read_fitted(run)
    chosen = load_for_inference(run) if model is None else model.eval().to(resolve_device(recipe.train.device))
    rejection = None if reject is None else choose_rejection(run, reject, views=views)
    if calibrated:
        check_temperatures(run, fitted, views)
    together = reads_image_sequences(run) if image_sequences is None else image_sequences
    checked = partial(progress, CHECKING)
    videos = find_inputs(inputs, recipe, image_sequences=together, frame_rate=frame_rate, progress=checked)
    bad = [str(video.info) for video in videos if isinstance(video.info, VideoError)]
    if bad and on_error == "fail":
        raise DataError("\n".join(bad))
    predictor = Predictor(chosen, recipe, resolve_views(run, views))
    if not calibrated:
        fitted = {task: replace(of_task, temperature=None) for task, of_task in fitted.items()}
    for number, video in enumerate(videos, 1):
        try:
            if isinstance(video.info, VideoError):
                raise video.info
            values_by_task, scores = predictor.with_scores(video, video.info)
            middle = video.first_frame + video.info.num_frames // 2
            found = build_prediction(run, video.path, values_by_task, fitted=fitted, top_k=top_k, middle=middle)
            (start, end), rejected = video.interval, None if rejection is None else rejection.rejects(scores)
            yield Path(video.name), replace(found, start=start, end=end, rejected=rejected, boxes=video.boxes)
        except VideoError as error:
            if on_error == "fail":
                raise
            yield Path(video.name), error
        progress(PREDICTING, number, len(videos))


def build_prediction(
    run: Run,
    path: Path,
    values_by_task: Mapping[str, np.ndarray],
    *,
    fitted: Mapping[str, Fitted],
    top_k: int,
    middle: int,
) -> Prediction:
    """The prediction of a video whose middle frame is `middle`, from the values (K,) that a Predictor gives."""
    tasks = {
        task: _task_prediction(run.outputs[task], values_K, top_k, fitted=fitted[task], middle=middle)
        for task, values_K in values_by_task.items()
    }
    first = tasks[primary_task({task: run.outputs[task] for task in tasks})]
    return Prediction(path, first.top_k, first.named, tasks if run.recipe.tasks else {})


class Predictor:
    """Predicts one video at a time, as evaluation does: probabilities or numbers (K,) of each task.

    Detection and segmentation are left out: they are of single frames, see finetune/objects/predict_frames.py. Raises
    RunError where no other task is left.
    """

    def __init__(self, model: InferenceModel, recipe: Recipe, views: int) -> None:
        self.model = model
        self.tasks = [task for task, output in model.outputs.items() if not output.is_dense]
        if not self.tasks:
            raise RunError(
                "the run predicts single frames, not clips: its tasks are of kind detect, track or segment; use "
                "`finetune predict RUN VIDEO`"
            )
        self.clip = recipe.clip.model_copy(update={"size": model.size})
        self.views = views
        self.precision = inference_precision(model, recipe.train.precision)

    def __call__(self, video: InputVideo, info: VideoInfo) -> dict[str, np.ndarray]:
        return self.with_scores(video, info)[0]

    def with_scores(self, video: InputVideo, info: VideoInfo) -> tuple[dict[str, np.ndarray], dict[ScoreName, float]]:
        """The values (K,) of each task, and the scores of `clip_scores`."""
        of_video: dict[str, Any] = {
            "views": self.views,
            "num_frames": info.num_frames,
            "video_size": (info.height, info.width),
            "source": video.source,
        }
        clips_VTCHW = read_views(video.path, self.clip, **of_video)
        logits_VBK = view_logits(self.model, clips_VTCHW.unsqueeze(0), precision=self.precision)
        outputs = decode_outputs(self.model, logits_VBK)
        placements = partial(view_placements, video.path, self.clip, **of_video)
        of_video_by_task = {task: outputs[task][0].numpy() for task in self.tasks}
        specs = {task: self.model.outputs[task] for task in self.tasks}
        predictions = to_source_pixels(specs, of_video_by_task, placements)
        if not all(np.isfinite(values).all() for values in predictions.values()):
            raise DataError(f"{video.name}: its predictions are not finite; train with train.precision=fp32")
        scores = clip_scores(self.model, logits_VBK)
        return predictions, {name: float(values[0]) for name, values in scores.items()}


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


def check_temperatures(run: Run, fitted: Mapping[str, Fitted], views: int | None) -> None:
    """Raise RunError where no task has a temperature for this number of views; None: the number it was fitted for."""
    if all(task.temperature is None for task in fitted.values()):
        raise RunError(f"{run.folder}: has no temperature, which training fits on the split val; omit --calibrated")
    fitted_views = run.recipe.evaluate.views
    if views is not None and views != fitted_views:
        raise RunError(f"{run.folder}: its temperature was fitted with {fitted_views} views, not {views}; omit --views")
