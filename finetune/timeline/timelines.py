"""The timelines of videos by a run; the probabilities equal those that `predict` gives for each window by itself."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.errors import DataError, RunError, VideoError
from finetune.metrics.calibration import apply_temperature
from finetune.model.classifier import VideoClassifier
from finetune.prediction.predict import check_temperatures
from finetune.recipe.schema import Clip
from finetune.recipe.tasks import primary_task, require_classes
from finetune.run.checkpoint import load_model
from finetune.run.fitted import read_fitted
from finetune.run.read import Run
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.runtime.threads import run_ahead
from finetune.timeline.event_settings import background_class
from finetune.timeline.events import EventSettings, events_from_probabilities
from finetune.timeline.one_pass import FRAMES_PER_BATCH, NumberedPictures, predict_windows
from finetune.timeline.timeline import TaskTimeline, Timeline
from finetune.timeline.windows import Windows, plan_windows
from finetune.video.augment import center_crop, frame_size
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo
from finetune.video.decode.read import stream_frames
from finetune.video.interval_frames import duration_by_times
from finetune.video.probe_files import at_image_rate, clip_times, scan_with_times

BATCHES_AHEAD = 4  # of pictures, decoded while the network computes
Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class TimelineOptions:
    """Length and step of windows in seconds; the step is by default a quarter of the length.

    `calibrated` applies the temperatures that were fitted on the split val.
    """

    window_seconds: float
    step_seconds: float | None = None
    calibrated: bool = False
    events: EventSettings = field(default_factory=EventSettings)

    def __post_init__(self) -> None:
        for name, value in (("window", self.window_seconds), ("step", self.step_seconds)):
            if value is not None and not 0 < value < float("inf"):
                raise RunError(f"the {name} is {value:g} seconds; it must be more than 0")


def iter_timelines(
    run: Run, paths: Sequence[Path], options: TimelineOptions, *, progress: Progress | None = None
) -> Iterator[tuple[Path, Timeline | VideoError]]:
    """The timeline of each video, or why it cannot be read; `progress` is called with (seconds done, seconds).

    Raises RunError for a run without classes.
    """
    predictor = TimelinePredictor(run, options, progress=progress)
    for path in paths:
        try:
            yield path, predictor(path)
        except VideoError as error:
            yield path, error


class TimelinePredictor:
    """Predicts the timeline of one video at a time, as `predict` does for each window: uncalibrated by default.

    A `model` that is given is not read again.
    """

    def __init__(
        self,
        run: Run,
        options: TimelineOptions,
        *,
        model: VideoClassifier | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.run, self.options, self.progress = run, options, progress
        require_classes(run.outputs, run.folder, "a timeline")
        self.fitted = read_fitted(run)
        if options.calibrated:
            check_temperatures(run, self.fitted, None)
        model = load_model(run) if model is None else model.eval()
        self.model = model.to(resolve_device(run.recipe.train.device))
        self.clip = run.recipe.clip.model_copy(update={"size": self.model.size})
        self.precision = resolve_precision(run.recipe.train.precision, next(self.model.parameters()).device)

    def __call__(self, path: Path) -> Timeline:
        """Raises VideoError for a file that cannot be read."""
        info, layout = at_image_rate(scan_with_times(path), self.run.recipe.data.image_rate)
        times_N = clip_times(path, info, layout)
        windows, seconds = self.plan(path, times_N), duration_by_times(times_N, info.duration_seconds)
        batches = picture_batches(path, windows.sampled_frames, self.clip, info=info, layout=layout)
        with closing(run_ahead(batches, ahead=BATCHES_AHEAD)) as ahead:
            return self.predict(path, windows, ahead, seconds=seconds, picture_size=(info.height, info.width))

    def predict(
        self,
        path: Path,
        windows: Windows,
        batches: Iterator[NumberedPictures],
        *,
        seconds: float,
        picture_size: tuple[int, int],
    ) -> Timeline:
        """The timeline of a recording that lasts `seconds`; `batches` have the frames that its windows take."""
        probabilities = self._probabilities(path, windows, batches, seconds)
        first = primary_task(self.model.outputs)
        tasks = {
            task: self._task_timeline(task, probabilities[task], windows, seconds)
            for task in sorted(probabilities, key=lambda task: task != first)
        }
        return Timeline(
            path=path,
            seconds=seconds,
            picture_size=picture_size,
            times_W=windows.times_W,
            middle_frames_W=windows.firsts_W + windows.counts_W // 2,
            window_seconds=windows.seconds,
            step_seconds=windows.step_seconds,
            tasks=tasks,
        )

    def plan(self, path: Path, times_N: np.ndarray) -> Windows:
        """The windows of a recording whose frames are shown at `times_N` (N,), in seconds."""
        options = self.options
        try:
            return plan_windows(
                times_N,
                self.clip,
                views=self.run.recipe.evaluate.views,
                window_seconds=options.window_seconds,
                step_seconds=options.step_seconds,
            )
        except VideoError as error:  # clip.short_clips is `error`
            raise VideoError(f"{path}: {error}; take longer windows") from None

    def _probabilities(
        self, path: Path, windows: Windows, batches: Iterator[NumberedPictures], seconds: float
    ) -> dict[str, np.ndarray]:
        """Probabilities (W, K) by task, of the tasks with classes or levels."""
        by_task: dict[str, np.ndarray] = {}
        done = 0
        for outputs in predict_windows(self.model, batches, windows.sampled_WVT, precision=self.precision):
            for task in (task for task in outputs if self.model.outputs[task].is_categorical):
                values_BK = outputs[task].numpy()
                count, classes = values_BK.shape
                of_task = by_task.setdefault(task, np.empty((len(windows), classes), np.float32))
                of_task[done : done + count] = values_BK
            done += count
            if self.progress is not None:
                is_last = done == len(windows)
                self.progress(seconds if is_last else float(windows.times_W[done - 1]), seconds)
        if not all(np.isfinite(of_task).all() for of_task in by_task.values()):
            raise DataError(f"{path}: its predictions are not finite; train with train.precision=fp32")
        return by_task

    def _task_timeline(self, task: str, probabilities_WK: np.ndarray, windows: Windows, seconds: float) -> TaskTimeline:
        output, temperature = self.model.outputs[task], self.fitted[task].temperature
        multilabel = output.kind == "multilabel"
        if self.options.calibrated and temperature is not None:
            probabilities_WK = apply_temperature(probabilities_WK, temperature, multilabel=multilabel)
        events = events_from_probabilities(
            windows.times_W,
            probabilities_WK,
            (0.0, seconds),
            self.options.events,
            multilabel=multilabel,
            background=background_class(self.run, output.names),
        )
        return TaskTimeline(output.names, multilabel, probabilities_WK.astype(np.float32, copy=False), events)


def picture_batches(
    path: Path,
    frames_M: np.ndarray,
    clip: Clip,
    *,
    info: VideoInfo,
    layout: GopLayout | None,
    prepare: Callable[[np.ndarray], Tensor] | None = None,
) -> Iterator[NumberedPictures]:
    """The frames `frames_M` (M,), rising, of a video as `read_views` gives them, some at a time.

    With `prepare` they are what it gives of each picture (H, W, 3) at the size of the video.
    """
    assert clip.size is not None
    size = frame_size((info.height, info.width), clip, None) if prepare is None else None
    as_tensor = _channels_first if prepare is None else prepare
    with closing(stream_frames(path, frames_M, size=size, layout=layout)) as frames:
        prepared = ((number, as_tensor(picture_HWC)) for number, picture_HWC in frames)
        while batch := list(islice(prepared, FRAMES_PER_BATCH)):
            pictures_FCHW = torch.stack([picture for _, picture in batch])
            pictures_FCHW = center_crop(pictures_FCHW, clip.size) if prepare is None else pictures_FCHW
            yield [number for number, _ in batch], pictures_FCHW


def _channels_first(picture_HWC: np.ndarray) -> Tensor:
    return torch.from_numpy(picture_HWC).permute(2, 0, 1)
