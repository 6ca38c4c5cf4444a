"""Resolve a recipe before training: complete it, check it, and decide its automatic settings."""

from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.model.backbone.weights_source import describe_source, licence_warning
from finetune.model.classifier import VideoClassifier
from finetune.recipe.phase_presets import resolve_phases
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import Multitask
from finetune.train.log.console import Display
from finetune.train.setup.autotune import describe_auto_settings, resolve_auto_settings
from finetune.train.setup.contrastive import contrastive_warning
from finetune.train.setup.preflight import run_preflight_checks


def resolve_recipe(
    model: VideoClassifier, manifest: Manifest, recipe: Recipe, *, folder: Path, display: Display
) -> tuple[Recipe, dict[str, Any]]:
    """The complete recipe, and the figures of its automatic settings, see `resolve_auto_settings`.

    Raises one FinetuneError for everything that is known to be wrong, before a video is read.
    """
    recipe = complete_recipe(model, manifest, recipe)
    run_preflight_checks(model, manifest, recipe, folder=folder)
    source = model.backbone.weights_source
    for line in (describe_source(source), *(licence_warning(source) or ()), contrastive_warning(model, recipe)):
        if line is not None:
            display.print_line(line)
    recipe, decided = resolve_auto_settings(model, manifest, recipe)
    for line in describe_auto_settings(decided):
        display.print_line(line)
    return recipe, decided


def complete_recipe(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> Recipe:
    """The recipe with the settings of the model and the manifest, absolute paths, and its phases written out."""
    data, train, spec = recipe.data, recipe.train, model.multitask_spec
    data_changes: dict[str, Any] = {
        "multilabel": manifest.targets is not None and not manifest.tasks,
        "image_rate": manifest.image_rate,
    }
    if isinstance(data.packed, Path):
        data_changes["packed"] = data.packed.absolute()
    if not (data.manifest or data.folder):
        data_changes["manifest"] = manifest.source
    if train.cache_dir is not None:
        train = train.model_copy(update={"cache_dir": train.cache_dir.expanduser().absolute()})
    return recipe.model_copy(
        update={
            "data": data.model_copy(update=data_changes),
            "clip": recipe.clip.model_copy(update={"size": model.size}),
            "model": model.settings,
            "tasks": dict(spec.tasks) if spec else {},
            "multitask": spec.multitask if spec else Multitask(),
            "phases": resolve_phases(recipe.phases, tuple(model.stages)),
            "train": train,
        }
    )
