"""Fine-tune pretrained image and video backbones on your own labelled videos.

Names are imported when first used, so that `import finetune` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.runtime.threads import wait_without_spinning

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.data.unknown_classes import leave_out_classes
    from finetune.errors import (
        ArgumentError,
        DataError,
        DivergedError,
        FinetuneError,
        IndexFolderError,
        ModelError,
        RecipeError,
        RunError,
        VideoError,
    )
    from finetune.evaluation.evaluate import evaluate
    from finetune.model.classifier import VideoClassifier, build_model
    from finetune.model.freezing.freeze import describe, set_trainable
    from finetune.model.freezing.param_groups import param_groups
    from finetune.objects.predict_frames import predict_objects
    from finetune.prediction.predict import Prediction, predict
    from finetune.recipe.load import load_recipe
    from finetune.recipe.schema import Augment, Clip, Data, Evaluate, Model, Phase, Recipe, Schedule, Train
    from finetune.recipe.tasks import Multitask, Task
    from finetune.report.run.page import write_report
    from finetune.run.checkpoint import load
    from finetune.run.read import Run, open_run
    from finetune.train.fit import fit
    from finetune.train.resume import resume
    from finetune.video.dataset import ClipDataset
    from finetune.video.decode.probe import VideoInfo, probe
    from finetune.video.decode.read import read_frames

wait_without_spinning()

_EXPORTS = {
    "finetune.run.checkpoint": ("load",),
    "finetune.errors": (
        "ArgumentError",
        "DataError",
        "DivergedError",
        "FinetuneError",
        "IndexFolderError",
        "ModelError",
        "RecipeError",
        "RunError",
        "VideoError",
    ),
    "finetune.evaluation.evaluate": ("evaluate",),
    "finetune.data.manifest": ("Manifest",),
    "finetune.data.unknown_classes": ("leave_out_classes",),
    "finetune.model.freezing.freeze": ("describe", "set_trainable"),
    "finetune.model.classifier": ("VideoClassifier", "build_model"),
    "finetune.model.freezing.param_groups": ("param_groups",),
    "finetune.objects.predict_frames": ("predict_objects",),
    "finetune.prediction.predict": ("Prediction", "predict"),
    "finetune.recipe.schema": ("Augment", "Clip", "Data", "Evaluate", "Model", "Phase", "Recipe", "Schedule", "Train"),
    "finetune.recipe.load": ("load_recipe",),
    "finetune.report.run.page": ("write_report",),
    "finetune.recipe.tasks": ("Multitask", "Task"),
    "finetune.run.read": ("Run", "open_run"),
    "finetune.train.fit": ("fit",),
    "finetune.train.resume": ("resume",),
    "finetune.video.dataset": ("ClipDataset",),
    "finetune.video.decode.probe": ("VideoInfo", "probe"),
    "finetune.video.decode.read": ("read_frames",),
}
_EXPORT_MODULE = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "ArgumentError",
    "Augment",
    "Clip",
    "ClipDataset",
    "Data",
    "DataError",
    "DivergedError",
    "Evaluate",
    "FinetuneError",
    "IndexFolderError",
    "Manifest",
    "Model",
    "ModelError",
    "Multitask",
    "Phase",
    "Prediction",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "Schedule",
    "Task",
    "Train",
    "VideoClassifier",
    "VideoError",
    "VideoInfo",
    "build_model",
    "describe",
    "evaluate",
    "fit",
    "leave_out_classes",
    "load",
    "load_recipe",
    "open_run",
    "param_groups",
    "predict",
    "predict_objects",
    "probe",
    "read_frames",
    "resume",
    "set_trainable",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORT_MODULE:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    return getattr(import_module(_EXPORT_MODULE[name]), name)


def __dir__() -> list[str]:
    return __all__
