"""The saved state of a run, from which it resumes exactly; the rest is computed from its recipe and position."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Required

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import TypedDict

from finetune.errors import RunError, shorten_list
from finetune.model.lora import has_lora
from finetune.model.standardized_head import own_head_state, restore_head_state
from finetune.run.folder import RunFolder
from finetune.run.results import ALLOW_EXTRA, Count
from finetune.storage.safe_read import MALFORMED_DATA_ERRORS, validate_type
from finetune.train.position import LoopPosition
from finetune.train.step import TrainState

START_NEW_RUN = "start another run, in another folder"
State = dict[str, Any]  # tensors, numbers and strings only, so that reading it executes nothing


class _SavedTally(TypedDict):
    clips: Count
    judged: Count
    right: Count
    total_loss: float
    steps: Count
    total_factor: float
    seconds: dict[str, float]


class _SavedPosition(TypedDict):
    phase: Count
    epochs: Count
    epochs_in_phase: Count
    batches: Count
    steps_in_phase: Count
    steps: Count
    left_out: Count
    tally: _SavedTally


class _SavedEma(TypedDict):
    steps: Count
    average: dict[str, Any]


class _SavedData(TypedDict):
    rows: Any
    classes: dict[str, list[str]]


class SavedState(TypedDict, total=False):
    """state.pt, as far as it can be checked before the run is set up."""

    __pydantic_config__ = ALLOW_EXTRA  # type: ignore[misc]
    position: Required[_SavedPosition]
    optimizer: Required[dict[str, Any]]
    ema: Required[_SavedEma]
    anchor: Required[dict[str, Any]]
    objective: dict[str, Any]
    scaler: Required[dict[str, Any] | None]
    model: Required[dict[str, Any] | None]
    has_new_heads: bool
    head: dict[str, Any]
    files: Required[Any]
    data: _SavedData
    precision: Required[Literal["fp32", "bf16", "fp16"]]
    batch_size: Required[Annotated[int, Field(ge=1, le=10**6)]]
    skipped: Required[dict[int, str]]
    recipe: Required[dict[str, Any]]


def saved_state(state: TrainState, at: LoopPosition) -> State:
    """The contents of state.pt.

    The model's own weights are included only if those of the checkpoint differ: averaged, or with LoRA merged in. So is
    a standardised head, which the checkpoint has folded.
    """
    setup, optimizer = state.setup, state.optimizer.optimizer
    has_own_weights = bool(setup.ema.average) or has_lora(setup.model)
    scaler = setup.accelerator.scaler
    return {
        "schema": 1,
        "position": asdict(at),
        "model": _copied(setup.model.state_dict()) if has_own_weights else None,
        "has_new_heads": setup.model.has_new_heads,
        "head": _copied(own_head_state(setup.model)),
        "optimizer": optimizer.state_dict(),
        "ema": {"steps": setup.ema.steps, "average": _copied(setup.ema.average)},
        "anchor": setup.l2_sp.state(setup.model),
        "objective": setup.objective.state(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def restore_state(state: TrainState, saved: State) -> None:
    """Restore a saved state in a phase that has just been started. Raises RunError where it does not fit."""
    optimizer = state.optimizer.optimizer
    fresh = optimizer.state_dict()
    try:
        _restore(state, saved)
    except (*MALFORMED_DATA_ERRORS, RuntimeError) as error:
        raise RunError(
            f"state.pt does not fit this run: {' '.join(str(error).split())[:300]}; {START_NEW_RUN}"
        ) from None
    refuse_other_optimizer(optimizer, fresh)


def _restore(state: TrainState, saved: State) -> None:
    setup = state.setup
    setup.model.has_new_heads = saved.get("has_new_heads", False)
    restore_head_state(setup.model, saved.get("head", {}))
    if saved["model"] is not None:
        setup.model.load_state_dict(saved["model"])
    state.optimizer.optimizer.load_state_dict(saved["optimizer"])
    setup.ema.steps = saved["ema"]["steps"]
    setup.ema.average = {name: value.to(setup.ema.average[name]) for name, value in saved["ema"]["average"].items()}
    setup.l2_sp.restore(setup.model, saved["anchor"])
    setup.objective.restore(saved.get("objective", {}))
    if setup.accelerator.scaler is not None:
        setup.accelerator.scaler.load_state_dict(saved["scaler"])


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: the device may have no room, and the weights are swapped while they are written."""
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def refuse_other_optimizer(optimizer: Optimizer, fresh: Mapping[str, Any]) -> None:
    """Raise RunError where the restored optimizer has other shapes or types than a fresh one would have."""
    for group, fresh_group in zip(optimizer.param_groups, fresh["param_groups"], strict=True):
        wrong = [key for key, value in fresh_group.items() if not _is_alike(group.get(key), value)]
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            shapes = [value.shape for value in state.values() if isinstance(value, Tensor) and value.ndim]
            wrong += [] if all(_belongs_to(shape, parameter.shape) for shape in shapes) else ["a tensor's shape"]
        if wrong:
            raise RunError(f"state.pt does not fit this run: the optimizer's {shorten_list(wrong)}; {START_NEW_RUN}")


def _belongs_to(shape: Sequence[int], parameter_shape: Sequence[int]) -> bool:
    """Whether an optimizer may keep a tensor of this shape for a parameter: Adafactor's have fewer dimensions."""
    return set(shape) <= {1, math.prod(parameter_shape), *parameter_shape}


def _is_alike(value: object, fresh: object) -> bool:
    """Whether a value has the type of a fresh one, and the length of a list; floats must be finite."""
    if isinstance(fresh, float) and not isinstance(fresh, bool):
        return isinstance(value, int | float) and math.isfinite(value)
    if isinstance(fresh, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(fresh)
    return isinstance(value, type(fresh)) or fresh is None


def read_state(folder: Path) -> State:
    """The state of a run's last checkpoint; nothing in it is executed. Raises RunError where there is none."""
    path = RunFolder(folder).checkpoint("last").state
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return validate_type(state, SavedState, path)
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(
            f"{folder}: cannot be resumed without checkpoints/last/state.pt; the run ended before its first "
            f"checkpoint, or the file was removed; {START_NEW_RUN}"
        ) from None
    except Exception as error:  # torch raises pickle's own errors for what it refuses to execute
        raise RunError(f"{path}: cannot be read as a saved state ({type(error).__name__}); {START_NEW_RUN}") from None
