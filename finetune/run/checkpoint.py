"""Checkpoints of a run: write one, load one into a model, and build the trained model of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.arguments import check_arguments
from finetune.errors import RunError, reason_of, suggest_similar
from finetune.model.backbone.weights_source import EARLIER_RUN, to_metadata
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.model.lora import merged_state_dict
from finetune.model.standardized_head import folded_state
from finetune.recipe.own_parts import require_imported_model
from finetune.recipe.tasks import MultitaskSpec
from finetune.run.folder import CheckpointFolder, RunFolder
from finetune.run.read import Run, open_run, read_checkpoint_meta, read_environment, require_checkpoint
from finetune.storage.atomic import atomic_folder, write_json


def save_checkpoint(
    folder: Path,
    which: str,
    model: VideoClassifier,
    meta: Mapping[str, Any],
    *,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint: weights, `meta`, and, to resume training from it, `state`.

    When writing fails, the previous checkpoint of this name stays. Raises RunError.
    """
    checkpoint = RunFolder(folder).checkpoints / which
    weights = {
        name: value.detach().cpu().contiguous() for name, value in folded_state(merged_state_dict(model)).items()
    }
    try:
        with atomic_folder(checkpoint) as partial:
            files = CheckpointFolder(partial)
            save_file(weights, files.weights, metadata=to_metadata(model.backbone.weights_source))
            write_json(files.meta, meta)
            if state is not None:
                torch.save(state, files.state)
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch, on a full disk
        raise RunError(
            f"{checkpoint}: the checkpoint could not be written: {error}; the previous one is unchanged"
        ) from error


def load_checkpoint(folder: Path, which: str, model: VideoClassifier) -> dict[str, Any]:
    """Load weights into a model built by the run's recipe; the contents of meta.json."""
    checkpoint = RunFolder(folder).checkpoint(which)
    if not checkpoint.exists():
        _refuse_missing(folder, which)
    load_model_weights(model, read_tensors(checkpoint.weights), where=checkpoint.weights)
    return {**read_checkpoint_meta(checkpoint)}


def _refuse_missing(folder: Path, which: str) -> NoReturn:
    others = [path.name for path in RunFolder(folder).checkpoints.iterdir() if CheckpointFolder(path).exists()]
    if which in {"best", "last"} or not others:
        raise RunError(f"{folder}: has no checkpoint {which!r} yet; its first epoch is not finished")
    near = suggest_similar(which, others)
    raise RunError(f"{folder}: has no checkpoint {which!r}{near}; there are {', '.join(sorted(others))}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises RunError where it cannot be read as one."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise RunError(f"{path}: cannot be read as weights: {' '.join(str(error).split())[:300]}") from None


def load_model_weights(model: VideoClassifier, weights: Mapping[str, Tensor], *, where: Path) -> None:
    """Raises RunError where weights have other names or shapes than the model."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{where}: does not fit the model of recipe.yaml and classes.json: {reason_of(error)}") from None


@check_arguments
def load(run: str | Path | Run, *, checkpoint: str = "best") -> VideoClassifier:
    """The trained model of a run folder, in evaluation mode; see `open_run` for a run with own parts.

    `checkpoint` is `best`, by val, or `last`, or another folder in the run's `checkpoints`. Raises RunError for a
    folder that is no run or has no such checkpoint, and where the weights do not fit.
    """
    return load_model(open_run(run), checkpoint)


def load_model(run: Run, checkpoint: str = "best") -> VideoClassifier:
    """The trained model of an opened run, in evaluation mode. Raises RunError for an exported model."""
    require_checkpoint(run, "this")
    model = build_empty_model(run)
    load_checkpoint(run.folder, checkpoint, model)
    model.has_new_heads = False
    model.consensus, model.multilabel = run.recipe.evaluate.consensus, run.recipe.data.multilabel
    model.run_folder = run.folder
    return model.eval()


def build_empty_model(run: Run) -> VideoClassifier:
    """A model of a run's architecture, into which its weights can be loaded."""
    recipe = run.recipe
    require_imported_model(recipe)
    settings = recipe.model.model_copy(update={"weights": "none"})
    multitask_spec = MultitaskSpec(recipe.tasks, run.outputs, recipe.multitask) if recipe.tasks else None
    if multitask_spec is not None and {task: output.kind for task, output in run.outputs.items()} != {
        name: task.kind for name, task in recipe.tasks.items()
    }:
        raise RunError(f"{RunFolder(run.folder).tasks}: has other tasks than recipe.yaml; train again")
    frames, size = recipe.clip.num_frames, recipe.clip.size
    model = build_from_settings(settings, run.classes, num_frames=frames, size=size, multitask_spec=multitask_spec)
    environment = read_environment(run.folder) or {}
    model.backbone.weights_source = environment.get("weights", EARLIER_RUN)
    return model
