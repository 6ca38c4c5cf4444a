"""Small multi-task models with random weights."""

import torch
from grey import TINY

from finetune.model.classifier import build_from_settings
from finetune.recipe.schema import Model
from finetune.recipe.tasks import CATEGORICAL_KINDS, Multitask, MultitaskSpec, OutputSpec, Task

NAMES = ("a", "b", "c")


def multitask_spec_of(tasks, **multitask):
    """Classes are three; numbers are given as they are."""
    outputs = {}
    for name, task in tasks.items():
        names = NAMES if task.kind in CATEGORICAL_KINDS else task.columns_of(name)
        scale = () if task.kind in CATEGORICAL_KINDS else ((0.0,) * len(names), (1.0,) * len(names))
        outputs[name] = OutputSpec(task.kind, names, *scale)
    return MultitaskSpec(tasks, outputs, Multitask(**multitask))


def tasked(tasks, *, backbone=TINY, size=64, num_frames=4, temporal="mean", **multitask):
    """A model of tasks, given as Task or by their kind; nothing is left out by chance, and all of it learns."""
    torch.manual_seed(0)
    tasks = {name: task if isinstance(task, Task) else Task(kind=task) for name, task in tasks.items()}
    settings = Model(backbone=backbone, weights="none", temporal=temporal, dropout=0)
    return build_from_settings(
        settings, NAMES, num_frames=num_frames, size=size, multitask_spec=multitask_spec_of(tasks, **multitask)
    )


def losses_of(said):
    """One for each task, which moves all that it says."""
    return {name: (each.float() - number).square().mean() for number, (name, each) in enumerate(said.items())}


def gradients_of(model):
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
