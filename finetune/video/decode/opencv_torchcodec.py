"""Read frames with OpenCV or torchcodec: for those who trust them more, and to compare with.

Both give the frames that PyAV gives. Colours differ a little, as each converts them in its own way.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from finetune.errors import VideoError
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.orientation import ClipOrientation, Orientation
from finetune.video.decode.packet_index import has_reliable_times, layout_by_demuxing
from finetune.video.decode.stack_frames import stack_pictures

PROGRESSIVE = 1  # and 0 is unknown


def read_with_opencv(
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: GopLayout | None
) -> tuple[np.ndarray, np.ndarray]:
    """`read_frames` by taking every frame in turn up to the last: OpenCV's own seeking is not exact."""
    wanted, found = set(indices), {}
    with open_video(path) as (_, stream):  # says what is wrong with a file better than OpenCV does
        if stream.codec_context.field_order > PROGRESSIVE:
            raise VideoError(f"{path}: is interlaced, which OpenCV hands out unconverted; use decoder pyav")
    orientation = _orientation_of_first(path)
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it turns, and does not mirror
    count = 0
    try:
        for count in range(max(wanted) + 1):
            if not capture.grab():
                break
            if count in wanted:
                there, picture_HWC = capture.retrieve()
                if not there:
                    break
                if size is not None:
                    stored_size = orientation.swap_if_transposed(size)
                    picture_HWC = cv2.resize(picture_HWC, stored_size[::-1], interpolation=cv2.INTER_AREA)
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                found[count] = orientation.shown(cv2.cvtColor(picture_HWC, cv2.COLOR_BGR2RGB)), seconds
    finally:
        capture.release()
    if len(found) < len(wanted):
        raise VideoError(f"{path}: frame {max(wanted)} was asked for, but OpenCV can read only {count} frames")
    return stack_pictures(path, found, indices)


def read_with_torchcodec(
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: GopLayout | None
) -> tuple[np.ndarray, np.ndarray]:
    """`read_frames` by torchcodec's exact mode, which sorts frames by their times: refused where those are not true."""
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VideoError(f"{path}: torchcodec cannot be used ({reason}); install it, or use decoder pyav") from None
    with open_video(path, quick=True) as (container, stream):
        index = stream.index
        has_times = has_reliable_times(container, stream) and layout_by_demuxing(container, stream) is not None
    if not has_times:
        raise VideoError(f"{path}: has no reliable timestamps, by which torchcodec finds frames; use decoder pyav")
    if _orientation_of_first(path) != Orientation():
        raise VideoError(f"{path}: is shown turned or mirrored, which torchcodec cannot do for sure; use decoder pyav")
    transforms = [] if size is None else [Resize(size)]
    try:
        decoder = VideoDecoder(
            path, stream_index=index, dimension_order="NHWC", num_ffmpeg_threads=1, transforms=transforms
        )
        batch = decoder.get_frames_at(list(indices))
    except (RuntimeError, ValueError, IndexError) as error:
        raise VideoError(f"{path}: torchcodec cannot read it: {str(error).splitlines()[0]}") from None
    return batch.data.numpy().transpose(0, 3, 1, 2), batch.pts_seconds.numpy()


def _orientation_of_first(path: Path) -> Orientation:
    with open_video(path, quick=True) as (container, stream):
        first = next(decode_frames(path, container, stream), None)
        return Orientation() if first is None else ClipOrientation(path).of(first)
