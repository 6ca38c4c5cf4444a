"""The model that a run starts from."""

from finetune.manifest import Manifest
from finetune.model.model import VideoClassifier, model_of
from finetune.recipe import Recipe


def new_model(recipe: Recipe, manifest: Manifest) -> VideoClassifier:
    """A model by a recipe, for the classes of a manifest; its new parts are drawn from PyTorch's generator.

    The head's bias starts at how often each class occurs, unless training shows or counts all classes evenly.
    """
    even = recipe.train.sampler == "balanced" or recipe.train.loss == "class_balanced"
    return model_of(
        recipe.model,
        manifest.classes,
        num_frames=recipe.clip.num_frames,
        size=recipe.clip.size,
        class_counts=None if even else list(manifest.counts("train").values()),
    )
