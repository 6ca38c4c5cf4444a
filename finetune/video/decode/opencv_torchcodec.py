"""Read frames with OpenCV or torchcodec instead of PyAV, for users who prefer them and for comparison.

Both give the same frames as PyAV. Colours differ a little, as each library converts them in its own way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.errors import VideoError
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.orientation import ClipOrientation, Orientation
from finetune.video.decode.packet_index import has_reliable_times, layout_by_demuxing

PROGRESSIVE = 1  # of a codec's field order; 0 is unknown
TimedPictures = Mapping[int, tuple[np.ndarray, float]]  # by frame: RGB uint8 (H, W, 3), and its time in seconds


def read_with_opencv(
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: GopLayout | None
) -> TimedPictures:
    """Frames by decoding every frame up to the last one wanted: OpenCV's own seeking is not exact."""
    import cv2  # slow to import

    wanted = set(indices)
    pictures: dict[int, tuple[np.ndarray, float]] = {}
    with open_video(path) as (_, stream):  # its errors are clearer than OpenCV's
        if stream.codec_context.field_order > PROGRESSIVE:
            raise VideoError(f"{path}: is interlaced, which OpenCV does not convert; use decoder pyav")
    orientation = _orientation_of_first(path)
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # OpenCV rotates but does not mirror
    count = 0
    try:
        for count in range(max(wanted) + 1):
            if not capture.grab():
                break
            if count in wanted:
                is_decoded, picture_HWC = capture.retrieve()
                if not is_decoded:
                    break
                if size is not None:
                    stored_size = orientation.swap_if_transposed(size)
                    picture_HWC = cv2.resize(picture_HWC, stored_size[::-1], interpolation=cv2.INTER_AREA)
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                pictures[count] = orientation.shown(cv2.cvtColor(picture_HWC, cv2.COLOR_BGR2RGB)), seconds
    finally:
        capture.release()
    if len(pictures) < len(wanted):
        raise VideoError(f"{path}: frame {max(wanted)} was asked for, but OpenCV can read only {count} frames")
    return pictures


def read_with_torchcodec(
    path: Path, indices: Sequence[int], size: tuple[int, int] | None, layout: GopLayout | None
) -> TimedPictures:
    """Frames by torchcodec's exact mode, which sorts frames by timestamp; refused where timestamps are unreliable."""
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
        raise VideoError(
            f"{path}: is rotated or mirrored for display, which torchcodec does not always apply; use decoder pyav"
        )
    transforms = [] if size is None else [Resize(size)]
    try:
        decoder = VideoDecoder(
            path, stream_index=index, dimension_order="NHWC", num_ffmpeg_threads=1, transforms=transforms
        )
        batch = decoder.get_frames_at(list(indices))
    except (RuntimeError, ValueError, IndexError) as error:
        raise VideoError(f"{path}: torchcodec cannot read it: {str(error).splitlines()[0]}") from None
    return dict(zip(indices, zip(batch.data.numpy(), batch.pts_seconds.tolist(), strict=True), strict=True))


def _orientation_of_first(path: Path) -> Orientation:
    with open_video(path, quick=True) as (container, stream):
        first = next(decode_frames(path, container, stream), None)
        return Orientation() if first is None else ClipOrientation(path).of(first)
