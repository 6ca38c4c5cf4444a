"""`finetune predict` with a run of objects or pixels: those of every frame as text or JSON, and drawn."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import count_predicted_files
from finetune.cli.progress import progress_bars
from finetune.cli.wrap import print_wrapped
from finetune.errors import RunError
from finetune.recipe.object_fields import background_index
from finetune.text import count, escape_control_characters

if TYPE_CHECKING:
    from finetune.annotations.format_names import ObjectExportFormat
    from finetune.cli.predicted_annotations import PredictedAnnotations
    from finetune.objects.detect import Recording
    from finetune.objects.predict_frames import ObjectPredictor, PredictedFrame, PredictedObject
    from finetune.run.read import Run

PREDICTING = "predicting frames"


@dataclass(frozen=True)
class ObjectOptions:
    """Options of `finetune predict` that detects objects; `targets` are the files to draw into, or none."""

    every: int
    score: float | None
    as_json: bool
    targets: Sequence[Path]
    on_error: Literal["skip", "fail"]


class Output(Protocol):
    """Something that predictions are written to: frames of one recording after the other.

    A recording that ends before it is complete was interrupted, or has a frame that cannot be read.
    """

    def begin(self, recording: Recording, /) -> None: ...

    def add(self, frame: PredictedFrame, /) -> None: ...

    def end(self, *, complete: bool) -> None: ...

    def close(self) -> None: ...


def predict_objects(
    run: Run,
    files: Sequence[Path],
    options: ObjectOptions,
    *,
    to: ObjectExportFormat | None = None,
    out: Path | None = None,
) -> tuple[int, int]:
    """Print the objects of each file and draw them; count files predicted and files skipped.

    Annotation files of the format `to` are written to `out`. Skipped files are named on stderr. Raises DataError where
    no file can be read.
    """
    import_quickly("finetune.objects.predict_frames")
    from finetune.objects.predict_frames import ObjectPredictor

    annotations = _annotations(to, out)
    predictor = ObjectPredictor(run, every=options.every, score=options.score)
    outputs: list[Output] = [_Json(predictor) if options.as_json else _Summary(predictor), *annotations]
    try:
        with progress_bars() as progress, count_predicted_files(options.on_error) as counts:
            for place, file in enumerate(files):
                with counts.count_file():
                    target = options.targets[place] if options.targets else None
                    _predict_file(predictor, file, outputs, target, progress)
    finally:
        for output in outputs:
            output.close()
    return counts.done, counts.skipped


def _annotations(to: ObjectExportFormat | None, out: Path | None) -> list[PredictedAnnotations]:
    """The annotation files that are asked for: none or one. Raises RunError where --to or --out is missing."""
    from finetune.cli.predicted_annotations import PredictedAnnotations

    if to is None and out is None:
        return []
    if to is None or out is None:
        raise RunError("annotation files need both: --to coco, mot or cvat, and --out with a new file or folder")
    return [PredictedAnnotations(to, out)]


def _predict_file(
    predictor: ObjectPredictor,
    file: Path,
    outputs: Sequence[Output],
    target: Path | None,
    progress: Callable[[str, int, int | None], None],
) -> None:
    """Print and draw the predictions of a file. Raises VideoError for one that cannot be read to its end."""
    recording, frames = predictor(file)
    for output in outputs:
        output.begin(recording)
    complete = False
    try:
        _draw(predictor, recording, _written(frames, outputs, recording, progress), target)
        complete = True
    finally:
        for output in outputs:
            output.end(complete=complete)


def _written(
    frames: Iterator[PredictedFrame],
    outputs: Sequence[Output],
    recording: Recording,
    progress: Callable[[str, int, int | None], None],
) -> Iterator[PredictedFrame]:
    """The same frames, each of which is written before it is given."""
    for number, frame in enumerate(frames, 1):
        for output in outputs:
            output.add(frame)
        yield frame
        progress(PREDICTING, number, recording.info.num_frames)


def _draw(
    predictor: ObjectPredictor, recording: Recording, frames: Iterator[PredictedFrame], target: Path | None
) -> None:
    """Draw all frames into `target`, or only take them."""
    if target is None:
        deque(frames, maxlen=0)
        return
    from finetune.objects.draw import draw_recording  # with OpenCV, which predictions alone do not need

    draw_recording(recording, frames, target, background=background_index(predictor.pixel_classes))


class _Summary:
    """Prints a few lines for each complete recording: objects and tracks of each class, or the share of its pixels."""

    def __init__(self, predictor: ObjectPredictor) -> None:
        self.predictor = predictor

    def begin(self, recording: Recording) -> None:
        self.recording, self.frames = recording, 0
        self.boxes: Counter[str] = Counter()
        self.tracks: dict[str, set[int]] = defaultdict(set)
        self.pixels: Counter[str] = Counter()

    def add(self, frame: PredictedFrame) -> None:
        self.frames += 1
        for predicted in frame.objects:
            self.boxes[predicted.name] += 1
            if predicted.track is not None:
                self.tracks[predicted.name].add(predicted.track)
        self.pixels.update(pixel_shares(frame, self.predictor.pixel_classes))

    def end(self, *, complete: bool) -> None:
        if not complete:
            return
        lines = [f"{self.recording.path}: {count(self.frames, 'frame')}"]
        for name in self.predictor.classes:
            boxes = count(self.boxes[name], "box", "boxes")
            lines.append(f"    {name}: {count(len(self.tracks[name]), 'track')}, {boxes}")
        for name, share in self.pixels.items():
            lines.append(f"    {name}: {share / max(1, self.frames):.1%} of the pixels")
        print_wrapped(escape_control_characters("\n".join(lines)))

    def close(self) -> None:
        pass


class _Json:
    """A JSON list on stdout with an item for each recording, written frame by frame; valid if it is interrupted."""

    def __init__(self, predictor: ObjectPredictor) -> None:
        self.predictor = predictor
        self.recordings = 0

    def begin(self, recording: Recording) -> None:
        info = recording.info
        facts = {
            "path": str(recording.path),
            "width": info.width,
            "height": info.height,
            "num_frames": info.num_frames,
            "fps": info.fps,
            "score_threshold": self.predictor.score,
        }
        print(f"{',' if self.recordings else '['}\n {json.dumps(facts, ensure_ascii=False)[:-1]}", end="")
        print(', "frames": [', end="", flush=True)
        self.recordings += 1
        self.frames = 0

    def add(self, frame: PredictedFrame) -> None:
        text = json.dumps(frame_json(frame, self.predictor.pixel_classes), ensure_ascii=False)
        print(f"{',' if self.frames else ''}\n  {text}", end="", flush=True)
        self.frames += 1

    def end(self, *, complete: bool) -> None:
        print("\n ]}", end="", flush=True)

    def close(self) -> None:
        if self.recordings:
            print("\n]")


def frame_json(frame: PredictedFrame, pixel_classes: Sequence[str]) -> dict[str, Any]:
    """A frame as it is in the JSON: its number, its time in seconds, its objects, the share of each class of pixels."""
    content: dict[str, Any] = {"frame": frame.frame, "time": round(frame.seconds, 6)}
    content["objects"] = [_object_json(predicted) for predicted in frame.objects]
    if frame.mask_HW is not None:
        content["pixels"] = {name: round(share, 4) for name, share in pixel_shares(frame, pixel_classes).items()}
    return content


def _object_json(predicted: PredictedObject) -> dict[str, Any]:
    return {
        "class": predicted.name,
        "score": round(predicted.score, 4),
        "box": [round(side, 2) for side in predicted.box],
        **({} if predicted.motion is None else {"motion": [round(pixels, 3) for pixels in predicted.motion]}),
        "track": predicted.track,
    }


def pixel_shares(frame: PredictedFrame, classes: Sequence[str]) -> dict[str, float]:
    """The share of each class among the pixels that the model sees."""
    if frame.mask_HW is None:
        return {}
    import numpy as np

    counts_K = np.bincount(frame.mask_HW.ravel(), minlength=256)[: len(classes)]
    return {name: float(share) for name, share in zip(classes, counts_K / max(1, counts_K.sum()), strict=True)}
