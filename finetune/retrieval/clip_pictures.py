"""A small picture of each clip, the frame in its middle, and whether a browser plays its file. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune.errors import VideoError
from finetune.retrieval.query import entry_interval
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.vector_index.entry import Entry
from finetune.video.decode.playable import playable_type
from finetune.video.decode.read import read_frames
from finetune.video.encode import encode_jpeg
from finetune.video.probe_files import ClipOfFile, LocatedClip, locate_clips
from finetune.video.tube_frames import cropped

LONGER_SIDE = 320  # pixels


@dataclass(frozen=True)
class ClipPicture:
    """JPEG bytes, and whether a browser plays the clip's file; or, of a clip that cannot be read, why."""

    jpeg: bytes | None
    is_playable: bool = False
    problem: str | None = None


def clip_pictures(entries: Sequence[Entry]) -> list[ClipPicture]:
    """The picture of each clip. Parts of folders of numbered images are found at the default rate."""
    clips = [ClipOfFile(Path(entry.path), entry_interval(entry), boxes=entry.boxes or "") for entry in entries]
    located = locate_clips(clips, image_rate=DEFAULT_IMAGE_FPS)
    return [_picture(clip.path, found) for clip, found in zip(clips, located, strict=True)]


def _picture(path: Path, found: LocatedClip | VideoError) -> ClipPicture:
    try:
        if isinstance(found, VideoError):
            raise found
        scale = min(1.0, LONGER_SIDE / max(found.info.height, found.info.width))
        size = max(1, round(scale * found.info.height)), max(1, round(scale * found.info.width))
        read = cropped(partial(read_frames, layout=found.layout), found.crop)
        frames_TCHW, _ = read(path, [found.first + found.info.num_frames // 2], size=size)
        return ClipPicture(encode_jpeg(frames_TCHW[0]), is_playable=playable_type(path) is not None)
    except VideoError as error:
        return ClipPicture(None, problem=str(error).removeprefix(f"{path}: "))
