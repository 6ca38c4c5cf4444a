"""The head of a task that reads the feature pyramid, by the task's kind."""

from torch import nn

from finetune.model.dense.detection import DetectionHead
from finetune.model.dense.pyramid import PyramidShape
from finetune.model.dense.segmentation import SegmentationHead
from finetune.recipe.tasks import MultitaskSpec


def dense_head(spec: MultitaskSpec, name: str, shape: PyramidShape, num_frames: int) -> nn.Module:
    """A new head of the task `name` for maps of this shape, of clips of `num_frames`."""
    task, classes = spec.tasks[name], len(spec.outputs[name].names)
    if task.kind == "segment":
        return SegmentationHead(shape, classes=classes)
    motion_frames = num_frames if task.kind == "track" else None
    return DetectionHead(shape, classes=classes, detector=task.detector or "fcos", motion_frames=motion_frames)
