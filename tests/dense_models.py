"""Small models of tasks that read a feature pyramid, with random weights."""

import torch
from grey import TINY

from finetune.model.classifier import build_from_settings
from finetune.recipe.schema import Model
from finetune.recipe.tasks import Multitask, MultitaskSpec, OutputSpec, Task

NAMES = ("disc", "square", "triangle")
SLOTS = 3


def dense_model(kinds, *, backbone=TINY, size=64, num_frames=3, detector=None, fusion="late", **multitask):
    """A model with one task of each kind, named by it; `classify` stands beside dense ones."""
    torch.manual_seed(0)
    tasks = {kind: Task(kind=kind, classes=NAMES if kind == "segment" else None) for kind in kinds}
    if detector is not None:
        tasks = {name: task.model_copy(update={"detector": detector}) for name, task in tasks.items()}
    outputs = {kind: OutputSpec(kind, NAMES, slots=size if kind == "segment" else SLOTS) for kind in kinds}
    return build_from_settings(
        Model(backbone=backbone, weights="none", dropout=0, fusion=fusion),
        NAMES,
        num_frames=num_frames,
        size=size,
        multitask_spec=MultitaskSpec(tasks, outputs, Multitask(**multitask)),
    )
