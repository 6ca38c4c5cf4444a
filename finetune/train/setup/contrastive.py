"""Whether a model and its data fit the supervised contrastive loss."""

import numpy as np

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.selectors import select_parameters
from finetune.recipe.contrastive import CONTRASTIVE_LOSS, contrastive_problems
from finetune.recipe.schema import Recipe, Schedule


def problems_with_contrastive(manifest: Manifest, recipe: Recipe) -> list[str]:
    """Messages about settings and data that a contrastive loss cannot use; none for other losses."""
    problems = contrastive_problems(recipe)
    if recipe.train.loss != CONTRASTIVE_LOSS or problems:
        return problems
    if np.bincount(manifest.labels[manifest.rows("train")], minlength=1).max() < 2:
        problems.append(f"train.loss is {CONTRASTIVE_LOSS}: no class has two training clips to compare")
    return problems


def contrastive_warning(model: VideoClassifier, recipe: Recipe) -> str | None:
    """A line where no phase trains a layer below the head, so that embeddings stay as they are; else None."""
    assert not isinstance(recipe.phases, Schedule)
    head = set(model.stages["head"].parameters)
    trained = {name for phase in recipe.phases for name in select_parameters(model.stages, phase.unfreeze)}
    if recipe.train.loss != CONTRASTIVE_LOSS or trained - head:
        return None
    return f"train.loss {CONTRASTIVE_LOSS} has no effect: no phase trains a layer below the head (phases.0.unfreeze)"
