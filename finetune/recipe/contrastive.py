"""What `train.loss: supervised_contrastive` needs of the other settings of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.recipe.schema import Recipe

CONTRASTIVE_LOSS = "supervised_contrastive"


def check_contrastive(recipe: Recipe) -> None:
    """Raise ValueError with all settings that do not fit the contrastive loss."""
    if problems := contrastive_problems(recipe):
        raise ValueError("; ".join(problems))


def contrastive_problems(recipe: Recipe) -> list[str]:
    """Messages about settings that do not fit a loss that compares clips of one class; none for other losses."""
    train, problems = recipe.train, []
    if train.loss != CONTRASTIVE_LOSS:
        return []
    if recipe.tasks:
        problems.append("takes one task of classes, but there are tasks: each would need embeddings of its own")
    if recipe.data.multilabel:
        problems.append("compares clips of the same class, but with data.multilabel a clip has several classes")
    if recipe.augment.mixup or recipe.augment.cutmix:
        problems.append("compares clips of the same class, but augment.mixup and cutmix blend clips of two classes")
    if train.batch_size == 1 and train.accumulate == 1:
        problems.append("compares the clips of a step, but train.batch_size is 1; use 16 or more")
    return [f"train.loss {CONTRASTIVE_LOSS} {problem}" for problem in problems]
