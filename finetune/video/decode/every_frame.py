"""Decode every frame of a clip strictly, to find damage that decoding a few frames would miss."""

from pathlib import Path

from finetune.errors import VideoError
from finetune.video.decode.clip_files import list_sequence_images
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.image_sequence import prefix_errors_with
from finetune.video.decode.orientation import ClipOrientation

STRICT = {"err_detect": "explode"}  # a decoder that meets damaged bytes fails, instead of concealing the error


def check_every_frame(path: Path, *, num_frames: int) -> None:
    """Raises VideoError with the number and time of the first frame that is damaged or missing."""
    if path.is_dir():
        with prefix_errors_with(path):
            for image in list_sequence_images(path):
                check_every_frame(image, num_frames=1)
        return
    count, seconds, orientation = 0, 0.0, ClipOrientation(path)
    with open_video(path) as (container, stream):
        stream.codec_context.options = {**stream.codec_context.options, **STRICT}
        try:
            for frame in decode_frames(path, container, stream):
                if frame.is_corrupt:
                    raise VideoError(f"{path}: its bytes are damaged")
                orientation.of(frame)
                count += 1
                seconds = seconds if frame.time is None else frame.time
        except VideoError as error:
            reason = str(error).rpartition(": ")[2]
            raise VideoError(f"{path}: is damaged after frame {count} ({seconds:.2f} s): {reason}") from None
    if count < num_frames:
        raise VideoError(f"{path}: ends after frame {count} ({seconds:.2f} s), but lists {num_frames} frames")
