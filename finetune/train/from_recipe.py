"""Train by a recipe alone: the model that it describes, built for a manifest, then `fit_recipe`."""

from dataclasses import replace
from pathlib import Path

import torch

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.recipe.schema import Recipe
from finetune.train.fit import fit_recipe
from finetune.train.loop import EpochCallback


def train_from_recipe(
    recipe: Recipe,
    manifest: Manifest,
    *,
    out: Path,
    model: VideoClassifier | None = None,
    after_epoch: EpochCallback | None = None,
) -> Path:
    """Train a new model by a recipe, or train `model` further; the run folder. See `fit`."""
    torch.manual_seed(recipe.seed)
    model = model or new_model(recipe, manifest)
    manifest = replace(manifest, image_rate=recipe.data.image_rate)
    return fit_recipe(model, manifest, recipe, out=out, after_epoch=after_epoch)


def new_model(recipe: Recipe, manifest: Manifest) -> VideoClassifier:
    """A model by a recipe, for the classes of a manifest; new weights are drawn from PyTorch's generator.

    The head's bias starts at the log frequency of each class, unless the sampler or the loss balances classes.
    """
    even = recipe.train.sampler == "balanced" or recipe.train.loss == "class_balanced"
    if recipe.tasks:
        frames, size = recipe.clip.num_frames, recipe.clip.size
        multitask_spec = manifest.multitask_spec(recipe.tasks, recipe.multitask, clip_size=size)
        model = build_from_settings(
            recipe.model, manifest.classes, num_frames=frames, size=size, multitask_spec=multitask_spec
        )
        if not even:
            init_bias_from_priors(model, manifest)
        return model
    return build_from_settings(
        recipe.model,
        manifest.classes,
        num_frames=recipe.clip.num_frames,
        size=recipe.clip.size,
        class_counts=None if even else list(manifest.counts("train").values()),
        clips=None if manifest.targets is None else len(manifest.rows("train")),
    )


def init_bias_from_priors(model: VideoClassifier, manifest: Manifest) -> None:
    """Initialise the bias of each task's head with the class frequencies in the training rows."""
    rows = manifest.rows("train")
    for name, labels in manifest.tasks.items():
        counts = labels.counts(rows)
        if labels.kind == "multilabel":
            model.heads.init_bias_from_prior(name, counts, clips=int(labels.known[rows].sum()))
        elif labels.kind == "classify":
            model.heads.init_bias_from_prior(name, counts)
        elif labels.kind == "ordinal":
            model.heads.init_bias_from_levels(name, counts)
