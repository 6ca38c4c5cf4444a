"""From labelled frames or detections to files of objects: COCO, MOTChallenge, CVAT."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.annotations.export_files import Exported, names_in_folder
from finetune.annotations.format_names import ObjectExportFormat
from finetune.annotations.objects import coco, cvat_boxes, mot
from finetune.annotations.objects.frame_objects import FrameObjects
from finetune.annotations.objects.import_objects import ImportedObjects, ObjectImportOptions, import_objects
from finetune.annotations.objects.label_video import LabelledFrame
from finetune.annotations.objects.object_formats import is_object_table
from finetune.annotations.objects.object_table import read_object_table
from finetune.errors import DataError
from finetune.storage.atomic import atomic_file, check_writable
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.text import count


class VideoLength(NamedTuple):
    """The number of frames of a video, and its frames per second."""

    frames: int
    rate: float


def write_objects(
    frames: Sequence[FrameObjects], kind: ObjectExportFormat, out: Path, lengths: Mapping[str, VideoLength]
) -> Exported:
    """Write frames, whose boxes are in pixels, to `out`: one file of COCO, else a folder with files for each video.

    A video in `frames` is the path of its file; `lengths` has all of them. Raises DataError if a file exists already,
    as it may hold corrections.
    """
    of_video: dict[str, list[FrameObjects]] = defaultdict(list)
    for frame in frames:
        of_video[frame.video].append(frame)
    paths = names_in_folder({video: Path(video) for video in of_video})
    if kind == "coco":
        texts = {out: coco.write([frame for own in of_video.values() for frame in own])}
    elif kind == "cvat":
        texts = {out / paths[video].with_suffix(".xml"): cvat_boxes.write(own) for video, own in of_video.items()}
    else:
        classes = sorted({item.name for frame in frames for item in frame.objects})
        texts = {}
        for video, own in of_video.items():
            texts |= _mot_files(out, paths[video], own, classes, lengths[video])
    if existing := next((path for path in texts if path.exists()), None):
        raise DataError(f"{existing} exists already, and may hold corrections; give another --out, or remove it")
    for path, text in texts.items():
        check_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    return Exported(list(texts), _notes(kind, of_video, lengths))


def _mot_files(
    out: Path, video: Path, frames: Sequence[FrameObjects], classes: Sequence[str], length: VideoLength
) -> dict[Path, str]:
    """The files of a sequence; its name in seqinfo.ini is that of the video, with the folders that tell it apart."""
    info = mot.write_sequence(
        video.with_suffix("").as_posix(),
        frames=length.frames,
        size=frames[0].size or (0, 0),
        rate=length.rate or DEFAULT_IMAGE_FPS,
    )
    folder = out / video.with_suffix("")
    return {
        folder / "gt" / "gt.txt": mot.write(frames, classes),
        folder / "gt" / "labels.txt": "".join(f"{label}\n" for label in classes),
        folder / "seqinfo.ini": info,
    }


def _notes(
    kind: ObjectExportFormat, of_video: Mapping[str, Sequence[FrameObjects]], lengths: Mapping[str, VideoLength]
) -> list[str]:
    """What the format does not hold."""
    notes = []
    partly = [
        video for video, frames in of_video.items() if len({frame.frame for frame in frames}) < lengths[video].frames
    ]
    if partly and kind == "mot":
        notes.append(
            f"{count(len(partly), 'video')} labelled in part: frames without labels are read as frames without objects"
        )
    if kind == "cvat" and any(frame.scores for frames in of_video.values() for frame in frames):
        notes.append("CVAT's files have no scores: they are left out")
    return notes


def read_labelled_frames(
    file: Path, videos: Path | None, *, progress: Callable[[int, int], None] | None = None
) -> ImportedObjects:
    """The labelled frames of a manifest with a column `objects`, or of any file of objects that can be imported."""
    if is_object_table(file):
        return read_object_table(file)
    return import_objects([file], ObjectImportOptions(videos=videos), progress=progress)


def export_objects(rows: Sequence[LabelledFrame], kind: ObjectExportFormat, out: Path) -> Exported:
    """Write the rows of a manifest; see `write_objects`. Raises VideoError as well."""
    from finetune.video.decode.clip_files import list_sequence_images
    from finetune.video.decode.probe import probe

    frames, lengths = [], {}
    images: dict[Path, list[Path]] = {}
    for row in rows:
        path, video = row.path.absolute(), row.path.absolute().as_posix()
        if video not in lengths:
            info = probe(path)
            lengths[video] = VideoLength(info.num_frames, info.fps or DEFAULT_IMAGE_FPS)
            images[path] = list_sequence_images(path) if path.is_dir() else []
        image = f"{path.name}/{images[path][row.frame].name}" if images[path] else ""
        frames.append(FrameObjects(video, row.frame, row.objects, row.scores, row.size, image, split=row.split))
    return write_objects(frames, kind, out, lengths)


def default_object_output(file: Path, kind: ObjectExportFormat) -> Path:
    """`clips-coco.json` or the folder `clips-mot` beside clips.csv."""
    return file.with_name(f"{file.stem}-{kind}{'.json' if kind == 'coco' else ''}")
