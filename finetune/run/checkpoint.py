"""The run folder: what a run writes, and how a trained model is loaded from it."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.model.classifier import VideoClassifier, build_from_settings
from finetune.model.lora import merged_state_dict
from finetune.recipe.load import load_recipe, save_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import DEFAULT_COLUMNS, MultitaskSpec, OutputSpec
from finetune.run.results import CheckpointMeta, Environment, SavedOutput
from finetune.storage.atomic import atomic_file, atomic_folder, current_version, write_json
from finetune.storage.safe_read import check_no_external_links, read_json
from finetune.version import VERSION

PACKAGES = ("torch", "torchvision", "timm", "av", "accelerate", "numpy", "scikit-learn")


def new_run_folder(name: str, out: Path | None = None) -> Path:
    """The folder of a new run: `out`, or `runs/<name>-<time>`.

    `out` has to be empty, not there, or left by a run that ended before its first checkpoint. Else RunError.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _has_no_checkpoint_yet(out))):
            raise RunError(f"{out}: is there already and not empty; a run needs a folder of its own")
        return out
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, count = Path("runs") / f"{name}-{stamp}", 1
    while folder.exists():
        folder, count = folder.with_name(f"{name}-{stamp}-{count}"), count + 1
    return folder


def _has_no_checkpoint_yet(folder: Path) -> bool:
    ours = {"recipe.yaml", "manifest.csv", "classes.json", "environment.json", "skipped.json", ".lock", "tasks.json"}
    ours |= {"tensorboard", "checkpoints", "wandb", "tracker.json"}
    names = {path.name.removesuffix(".partial") for path in folder.iterdir()}
    learnt = any(current_version(folder / "checkpoints" / which).exists() for which in ("last", "best"))
    return names <= ours and not learnt


def begin_run(
    folder: Path,
    recipe: Recipe,
    manifest: Manifest,
    *,
    decided: Mapping[str, Any] | None = None,
    outputs: Mapping[str, OutputSpec] | None = None,
) -> None:
    """Write what is known before training: the resolved recipe, the rows with their splits, classes, environment.

    Of several tasks also what a model's heads give.

    The environment tells what was `decided` for it. In the folder of a run that goes on it is added to those that it
    had before.
    """
    with atomic_file(folder / "recipe.yaml") as partial:
        save_recipe(recipe, partial)
    with atomic_file(folder / "manifest.csv") as partial:
        manifest.to_csv(partial)
    write_json(folder / "classes.json", list(manifest.classes))
    if outputs:
        write_json(folder / "tasks.json", {name: asdict(output) for name, output in outputs.items()})
    path, here = folder / "environment.json", environment() | ({"decided": decided} if decided else {})
    if path.exists():
        begun = read_json(path, Environment)
        here = begun | {"resumed": [*begun.get("resumed", []), here]}
    write_json(path, here)


def save_checkpoint(
    folder: Path,
    which: str,
    model: VideoClassifier,
    meta: Mapping[str, Any],
    *,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write `checkpoints/<which>`, with what a run needs to go on as `state.pt`; the one before survives a failure."""
    checkpoint = folder / "checkpoints" / which
    weights = {name: value.detach().cpu().contiguous() for name, value in merged_state_dict(model).items()}
    try:
        with atomic_folder(checkpoint) as partial:
            save_file(weights, partial / "model.safetensors")
            write_json(partial / "meta.json", meta)
            if state is not None:
                torch.save(state, partial / "state.pt")
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch, on a full disk
        raise RunError(
            f"{checkpoint}: the checkpoint could not be written: {error}; the one before is there still"
        ) from error


def load_checkpoint(folder: Path, which: str, model: VideoClassifier) -> dict[str, Any]:
    """Load weights into a model built by the run's recipe; what was noted beside them."""
    checkpoint = current_version(folder / "checkpoints" / which)
    if not checkpoint.exists():
        raise RunError(f"{folder}: has no checkpoint {which!r} yet; its first epoch is not finished")
    load_model_weights(model, read_tensors(checkpoint / "model.safetensors"), where=checkpoint / "model.safetensors")
    return read_json(checkpoint / "meta.json", CheckpointMeta)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises RunError for what is none."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise RunError(f"{path}: cannot be read as weights: {' '.join(str(error).split())[:300]}") from None


def load_model_weights(model: VideoClassifier, weights: Mapping[str, Tensor], *, where: Path) -> None:
    """Raises RunError where weights have other names or shapes than the model."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{where}: does not fit the model that recipe.yaml and the classes make: {reason}") from None


def open_run(run: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of a run, with overrides, and its classes. Raises RunError for a folder without a checkpoint."""
    folder = Path(run)
    needed = ("recipe.yaml", "classes.json", "manifest.csv", "checkpoints")
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise RunError(f"{folder}: is not a run folder with a checkpoint: it has no {', no '.join(missing)}")
    check_no_external_links(folder)
    classes = read_json(folder / "classes.json", list[str])
    return load_recipe(str(folder / "recipe.yaml"), overrides), tuple(classes)


def load(run: str | Path, *, checkpoint: str = "best") -> VideoClassifier:
    """The trained model of a run folder, in evaluation mode."""
    recipe, classes = open_run(run)
    model = build_empty_model(Path(run), recipe, classes)
    load_checkpoint(Path(run), checkpoint, model)
    model.consensus, model.multilabel = recipe.evaluate.consensus, recipe.data.multilabel
    return model.eval()


def build_empty_model(run: Path, recipe: Recipe, classes: tuple[str, ...]) -> VideoClassifier:
    """A model as a run's is built, into which its weights can be loaded."""
    settings = recipe.model.model_copy(update={"weights": "none"})
    multitask_spec = MultitaskSpec(recipe.tasks, read_task_outputs(run), recipe.multitask) if recipe.tasks else None
    if multitask_spec is not None and {name: each.kind for name, each in multitask_spec.outputs.items()} != {
        name: task.kind for name, task in recipe.tasks.items()
    }:
        raise RunError(f"{run / 'tasks.json'}: has other tasks than recipe.yaml; train again")
    frames, size = recipe.clip.num_frames, recipe.clip.size
    return build_from_settings(settings, classes, num_frames=frames, size=size, multitask_spec=multitask_spec)


def read_task_outputs(run: Path) -> dict[str, OutputSpec]:
    """What the heads of a run with several tasks give. Raises RunError where that is not there."""
    path = run / "tasks.json"
    if not path.is_file():
        raise RunError(f"{run}: has several tasks and no tasks.json, which training wrote")
    outputs = {
        name: OutputSpec(each["kind"], *(tuple(each[key]) for key in ("names", "center", "scale")))
        for name, each in read_json(path, dict[str, SavedOutput]).items()
    }
    for name, output in outputs.items():
        wanted = 0 if output.is_categorical else len(DEFAULT_COLUMNS.get(output.kind, output.names))
        if not (output.names and len(output.center) == len(output.scale) == wanted) or (
            wanted and len(output.names) != wanted
        ):
            raise RunError(f"{path}: what it says of the task {name!r} does not go together; train again")
    return outputs


def environment(command: Sequence[str] = tuple(sys.argv)) -> dict[str, Any]:
    """Versions, hardware, git revision and command: what somebody needs to repeat a run."""
    return {
        "versions": {
            "finetune": VERSION,
            "python": platform.python_version(),
            **package_versions(PACKAGES),
        },
        "hardware": {
            "system": platform.platform(),
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "gpu": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "git": _git_revision(),
        "command": " ".join([Path(command[0]).name, *command[1:]]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of each package the version that is installed; None where it is not."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
