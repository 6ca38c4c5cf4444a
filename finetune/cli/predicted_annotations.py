"""Predicted objects as annotation files, for the tools in which people correct them."""

import sys
from pathlib import Path

from finetune.annotations.format_names import ObjectExportFormat
from finetune.annotations.objects.export_objects import VideoLength, write_objects
from finetune.annotations.objects.frame_objects import FrameObjects
from finetune.data.object_labels import LabelledObject
from finetune.errors import DataError
from finetune.objects.detect import Recording
from finetune.objects.predict_frames import PredictedFrame
from finetune.storage.atomic import check_writable
from finetune.video.decode.clip_files import list_sequence_images


class PredictedAnnotations:
    """Collects the objects of complete recordings, and writes them to `out`: a file of COCO, else a folder.

    Raises DataError where `out` exists, and RunError where it cannot be written.
    """

    def __init__(self, kind: ObjectExportFormat, out: Path) -> None:
        if out.exists():
            raise DataError(f"{out} exists already, and may hold corrections; give another --out, or remove it")
        check_writable(out)
        self.kind, self.out = kind, out
        self.frames: list[FrameObjects] = []
        self.current_frames: list[FrameObjects] = []
        self.lengths: dict[str, VideoLength] = {}
        self.images: list[Path] = []

    def begin(self, recording: Recording) -> None:
        self.recording, self.video = recording, recording.path.absolute().as_posix()
        self.current_frames = []
        self.images = list_sequence_images(recording.path) if recording.path.is_dir() else []

    def add(self, frame: PredictedFrame) -> None:
        info, path = self.recording.info, self.recording.path
        image = f"{path.name}/{self.images[frame.frame].name}" if self.images else ""
        objects = tuple(LabelledObject(one.name, *one.box, track=one.track) for one in frame.objects)
        scores = tuple(one.score for one in frame.objects)
        size = info.width, info.height
        self.current_frames.append(FrameObjects(self.video, frame.frame, objects, scores, size, image))

    def end(self, *, complete: bool) -> None:
        """A recording that is not complete is left out: its other frames would look like frames without objects."""
        if complete:
            info = self.recording.info
            self.lengths[self.video] = VideoLength(info.num_frames, info.fps)
            self.frames += self.current_frames

    def close(self) -> None:
        """Write what was collected, if anything, and name the files on stderr."""
        if self.frames:
            exported = write_objects(self.frames, self.kind, self.out, self.lengths)
            print(*exported.notes, *exported.files, sep="\n", file=sys.stderr)
