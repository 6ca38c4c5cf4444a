"""Fine-tune pretrained image and video backbones on your own labelled videos.

Names are imported when first used, so that `import finetune` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.threads import wait_without_spinning

if TYPE_CHECKING:
    from finetune.checkpoint import load
    from finetune.errors import DataError, DivergedError, FinetuneError, ModelError, RecipeError, RunError, VideoError
    from finetune.evaluation import evaluate
    from finetune.manifest import Manifest
    from finetune.model.freeze import describe, set_trainable
    from finetune.model.model import VideoClassifier, build_model
    from finetune.model.rates import param_groups
    from finetune.prediction import Prediction, predict
    from finetune.recipe import Augment, Clip, Data, Evaluate, Model, Phase, Recipe, Schedule, Train
    from finetune.recipe_files import load_recipe
    from finetune.report.page import write_report
    from finetune.tasks import Multitask, Task
    from finetune.train.loop import fit
    from finetune.train.resume import resume
    from finetune.video.dataset import ClipDataset
    from finetune.video.decode import VideoInfo, probe, read_frames

wait_without_spinning()

_HOMES = {
    "finetune.checkpoint": ("load",),
    "finetune.errors": (
        "DataError",
        "DivergedError",
        "FinetuneError",
        "ModelError",
        "RecipeError",
        "RunError",
        "VideoError",
    ),
    "finetune.evaluation": ("evaluate",),
    "finetune.manifest": ("Manifest",),
    "finetune.model.freeze": ("describe", "set_trainable"),
    "finetune.model.model": ("VideoClassifier", "build_model"),
    "finetune.model.rates": ("param_groups",),
    "finetune.prediction": ("Prediction", "predict"),
    "finetune.recipe": ("Augment", "Clip", "Data", "Evaluate", "Model", "Phase", "Recipe", "Schedule", "Train"),
    "finetune.recipe_files": ("load_recipe",),
    "finetune.report.page": ("write_report",),
    "finetune.tasks": ("Multitask", "Task"),
    "finetune.train.loop": ("fit",),
    "finetune.train.resume": ("resume",),
    "finetune.video.dataset": ("ClipDataset",),
    "finetune.video.decode": ("VideoInfo", "probe", "read_frames"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Augment",
    "Clip",
    "ClipDataset",
    "Data",
    "DataError",
    "DivergedError",
    "Evaluate",
    "FinetuneError",
    "Manifest",
    "Model",
    "ModelError",
    "Multitask",
    "Phase",
    "Prediction",
    "Recipe",
    "RecipeError",
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
    "load",
    "load_recipe",
    "param_groups",
    "predict",
    "probe",
    "read_frames",
    "resume",
    "set_trainable",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
