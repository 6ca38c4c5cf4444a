"""What a run's tasks of objects and pixels predict for frames of a recording, in constant memory.

The network computes several frames at a time, while another thread decodes the next ones. Frames that the clips of
several frames share are decoded once.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from finetune.errors import DataError, RunError
from finetune.inference.predict_split import to_source_pixels
from finetune.model.classifier import VideoClassifier
from finetune.recipe.object_fields import DETECTION_FIELDS, UNLABELLED
from finetune.recipe.tasks import DENSE_KINDS, DETECTION_KINDS, OutputSpec
from finetune.run.checkpoint import load_model
from finetune.run.read import Run
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.runtime.threads import run_ahead
from finetune.timeline.one_pass import predict_windows
from finetune.timeline.timelines import BATCHES_AHEAD, picture_batches
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo
from finetune.video.geometry import placement
from finetune.video.probe_files import at_image_rate, clip_times, scan_with_times


class Recording(NamedTuple):
    """A video, an image or a folder of numbered images, and the times of its frames (N,) in seconds."""

    path: Path
    info: VideoInfo
    layout: GopLayout | None
    times_N: np.ndarray


def read_recording(path: Path, *, image_rate: float) -> Recording:
    """Folders of numbered images have `image_rate` frames a second. Raises VideoError where a file cannot be read."""
    info, layout = at_image_rate(scan_with_times(path), image_rate)
    return Recording(path, info, layout, clip_times(path, info, layout))


class FrameOutput(NamedTuple):
    """Detections (D, 8) of a frame in pixels of the video, see DETECTION_FIELDS, and the classes of pixels.

    `mask_HW` is uint8, of the size of the video, 255 outside of the part that the model sees; None without such a task.
    """

    frame: int
    detections_D8: np.ndarray
    mask_HW: np.ndarray | None = None


class Detector(Protocol):
    """Predicts frames (W,) of a recording, whose numbers rise."""

    def __call__(self, recording: Recording, frames_W: np.ndarray, /) -> Iterator[FrameOutput]: ...


class RunDetector:
    """The predictions of a run's first task of objects and of its first task of pixels.

    A `model` that is given is not read again. Raises RunError for a run without such a task.
    """

    def __init__(self, run: Run, *, model: VideoClassifier | None = None) -> None:
        self.objects = first_task(run.outputs, *DETECTION_KINDS)
        self.pixels = first_task(run.outputs, "segment")
        if self.objects is None and self.pixels is None:
            raise RunError(f"{run.folder}: has no task of kind {', '.join(DENSE_KINDS)}, so there are no objects")
        model = load_model(run) if model is None else model.eval()
        self.model = model.to(resolve_device(run.recipe.train.device))
        self.clip = run.recipe.clip.model_copy(update={"size": self.model.size})
        self.precision = resolve_precision(run.recipe.train.precision, self.model.device)

    def __call__(self, recording: Recording, frames_W: np.ndarray) -> Iterator[FrameOutput]:
        """Raises VideoError where a frame cannot be decoded."""
        windows_WT = frames_around(
            frames_W, self.clip.num_frames, self.clip.frame_stride, video_frames=recording.info.num_frames
        )
        batches = picture_batches(
            recording.path, np.unique(windows_WT), self.clip, info=recording.info, layout=recording.layout
        )
        done = 0
        with closing(run_ahead(batches, ahead=BATCHES_AHEAD)) as ahead:
            for outputs in predict_windows(self.model, ahead, windows_WT[:, None], precision=self.precision):
                values = {name: outputs[name].numpy() for name in (self.objects, self.pixels) if name is not None}
                for place in range(len(next(iter(values.values())))):
                    of_frame = {name: of_task[place] for name, of_task in values.items()}
                    yield self._frame_output(recording, int(frames_W[done]), windows_WT[done].tolist(), of_frame)
                    done += 1

    def _frame_output(
        self, recording: Recording, frame: int, window: list[int], values: dict[str, np.ndarray]
    ) -> FrameOutput:
        size = recording.info.height, recording.info.width
        at = placement(size, window, clip=self.clip, augment=None, transform=None, seed=None)
        outputs = {name: self.model.outputs[name] for name in values}
        values = to_source_pixels(outputs, values, lambda: [at])
        detections_D8 = np.zeros((0, len(DETECTION_FIELDS))) if self.objects is None else values[self.objects]
        if not np.isfinite(detections_D8[:, :6]).all():
            raise DataError(f"{recording.path}: its predictions are not finite; train with train.precision=fp32")
        mask_HW = None if self.pixels is None else mask_in_video(values[self.pixels], at.matrix, size)
        return FrameOutput(frame, detections_D8, mask_HW)


def first_task(outputs: Mapping[str, OutputSpec], *kinds: str) -> str | None:
    return next((name for name, output in outputs.items() if output.kind in kinds), None)


def frames_around(frames_W: np.ndarray, num_frames: int, stride: int, *, video_frames: int) -> np.ndarray:
    """The frames (W, T) of the clips around each of the frames (W,): index T // 2 is the frame itself."""
    offsets_T = stride * (np.arange(num_frames) - num_frames // 2)
    return np.clip(frames_W[:, None] + offsets_T, 0, video_frames - 1)


def mask_in_video(mask_SS: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask of the model's picture, uint8 (S, S), as one of the video, uint8 (H, W); 255 outside of that picture.

    `matrix` (2, 3) is that of a `Placement` without rotation, `size` (height, width).
    """
    rows_H, columns_W = (
        np.floor(len(mask_SS) * ((np.arange(side) + 0.5) * matrix[axis, axis] + matrix[axis, 2])).astype(int)
        for axis, side in ((1, size[0]), (0, size[1]))
    )
    padded = np.pad(mask_SS, 1, constant_values=UNLABELLED)
    rows_H, columns_W = (np.clip(places, -1, len(mask_SS)) + 1 for places in (rows_H, columns_W))
    return padded[rows_H[:, None], columns_W]
