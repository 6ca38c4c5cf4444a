"""Predicted objects as annotation files, for the tools in which people correct them."""

from pathlib import Path

from finetune.annotations.export_files import Exported
from finetune.annotations.format_names import ObjectExportFormat
from finetune.annotations.objects.export_objects import VideoLength, write_objects
from finetune.annotations.objects.frame_objects import FrameObjects
from finetune.data.object_labels import LabelledObject
from finetune.errors import DataError
from finetune.objects.detect import Recording
from finetune.objects.predict_frames import PredictedFrame
from finetune.video.decode.clip_files import list_sequence_images


class PredictedAnnotations:
    """Collects the objects of recordings, and writes them to `out`: a file of COCO, else a folder.

    Raises DataError where `out` exists.
    """

    def __init__(self, kind: ObjectExportFormat, out: Path) -> None:
        if out.exists():
            raise DataError(f"{out} exists already, and may hold corrections; give another --out, or remove it")
        self.kind, self.out = kind, out
        self.frames: list[FrameObjects] = []
        self.lengths: dict[str, VideoLength] = {}
        self.images: list[Path] = []
        self.exported = Exported((), ())

    def begin(self, recording: Recording) -> None:
        self.recording, self.video = recording, recording.path.absolute().as_posix()
        self.lengths[self.video] = VideoLength(recording.info.num_frames, recording.info.fps)
        self.images = list_sequence_images(recording.path) if recording.path.is_dir() else []

    def add(self, frame: PredictedFrame) -> None:
        info, path = self.recording.info, self.recording.path
        image = f"{path.name}/{self.images[frame.frame].name}" if self.images else ""
        objects = tuple(LabelledObject(one.name, *one.box, track=one.track) for one in frame.objects)
        scores = tuple(one.score for one in frame.objects)
        self.frames.append(FrameObjects(self.video, frame.frame, objects, scores, (info.width, info.height), image))

    def end(self) -> None:
        """The end of a recording."""

    def close(self) -> None:
        """Write what was collected, if anything."""
        if self.frames:
            self.exported = write_objects(self.frames, self.kind, self.out, self.lengths)
