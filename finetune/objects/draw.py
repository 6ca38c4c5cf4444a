"""Draw the objects and masks of a recording's frames on a copy of it."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from finetune.objects.detect import Recording
from finetune.objects.predict_frames import PredictedFrame, PredictedObject
from finetune.prediction.overlay import IMAGE_OUTPUT_SUFFIXES, encode_image, encode_video
from finetune.video.decode.read import stream_frames
from finetune.video.draw_objects import DrawnObject, draw_mask, draw_objects


def draw_recording(
    recording: Recording, frames: Iterable[PredictedFrame], target: Path, *, background: int | None = None
) -> None:
    """Write each of all frames with its objects, at the mean rate of the recording and without sound.

    An image is written where the suffix of `target` is that of one. Pixels of the class `background` keep their colour.
    """
    drawn = drawn_frames(recording, frames, background=background)
    if target.suffix.lower() in IMAGE_OUTPUT_SUFFIXES:
        encode_image(target, next(drawn))
    else:
        encode_video(target, drawn, rate=recording.info.fps or 25.0)


def drawn_frames(
    recording: Recording, frames: Iterable[PredictedFrame], *, background: int | None = None
) -> Iterator[np.ndarray]:
    """The pictures of all frames with what was predicted, uint8 RGB (H, W, 3), one at a time."""
    info = recording.info
    pictures = stream_frames(
        recording.path, np.arange(info.num_frames), size=(info.height, info.width), layout=recording.layout
    )
    with closing(pictures):
        for frame in frames:
            number, picture_HWC = next(pictures)
            assert number == frame.frame
            if frame.mask_HW is not None:
                picture_HWC = draw_mask(picture_HWC, frame.mask_HW, background=background)
            yield draw_objects(picture_HWC, [_drawn(predicted) for predicted in frame.objects])


def _drawn(predicted: PredictedObject) -> DrawnObject:
    """An object in the colour of its identity, so that an exchange of identities is seen; else of its class."""
    track = predicted.track
    label = predicted.name if track is None else f"{predicted.name} {track}"
    colour = predicted.class_index if track is None else track
    return DrawnObject(predicted.box, colour, f"{label} {predicted.score:.2f}", predicted.motion)
