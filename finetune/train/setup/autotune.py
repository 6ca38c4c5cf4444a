"""Automatic settings: how many clips fit into a batch, and whether compiling saves time."""

import copy
import math
import time
from typing import Any

import torch
from accelerate.utils import find_executable_batch_size

from finetune.data.manifest import Manifest
from finetune.errors import RecipeError
from finetune.model.begin_phase import begin_phase
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import set_trainable
from finetune.model.lora import merge_lora
from finetune.recipe.schema import DEFAULT_BATCH_SIZE, Phase, Recipe, Schedule
from finetune.runtime.device import resolve_device, resolve_precision, wait_for_device
from finetune.runtime.processes import on_main_then_broadcast, process_count
from finetune.train.phase import build_setup, end_phase, start_phase
from finetune.train.phase_data import cacheable_part
from finetune.train.step import StepNumbers, dummy_batch, train_step

MAX_BATCH_SIZE = 64  # clips; larger batches seldom train better
MIN_BATCHES_PER_EPOCH = 8
MIN_SECONDS_TO_COMPILE = 600.0  # seconds of steps in a phase, below which compiling cannot pay
# Their learning rate scales with the batch size; that of adaptive optimizers with its square root
# (arXiv:1706.02677, arXiv:2006.09092).
LINEAR_LR_SCALING = ("sgd", "momentum", "sgdp", "nesterov")


def resolve_auto_settings(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with `batch_size: auto` and `compile: auto` decided, and the figures of the decision.

    Learning rates are scaled to the batch size, as those of a recipe are for DEFAULT_BATCH_SIZE clips. The model is
    unchanged. Raises RecipeError where not even one clip fits.
    """
    train = recipe.train
    if "auto" not in (train.batch_size, train.compile):
        return recipe, {}
    before = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    decided = on_main_then_broadcast(lambda: _autotune(model, manifest, recipe))
    model.load_state_dict(before)
    set_trainable(model, "all")
    model.eval()
    phases = _phases(recipe)
    if "batch_size" in decided:
        phases = tuple(_scaled(phase, train.optimizer, decided["batch_size"]["clips"]) for phase in phases)
    update = {
        "batch_size": decided.get("batch_size", {}).get("clips", train.batch_size),
        "compile": decided.get("compile", {}).get("pays", train.compile),
    }
    return recipe.model_copy(update={"phases": phases, "train": train.model_copy(update=update)}), decided


def describe_auto_settings(decided: dict[str, Any]) -> list[str]:
    """The automatic settings as lines of text."""
    lines = []
    if size := decided.get("batch_size"):
        lines.append(f"batch_size auto: {size['clips']} clips; learning rates of the recipe × {size['rate_factor']:g}")
    if choice := decided.get("compile"):
        verdict = "saves time" if choice["pays"] else "saves no time"
        figures = ", ".join(f"{name.replace('_', ' ')} {choice[name]:.3g}" for name in choice if name != "pays")
        lines.append(f"compile auto: {verdict} ({figures})")
    return lines


def _autotune(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    decided: dict[str, Any] = {}
    size, rows = recipe.train.batch_size, len(manifest.rows("train"))
    if size == "auto":
        size = _largest_batch(model, manifest, recipe, rows=rows, device=resolve_device(recipe.train.device))
        factor = _rate_factor(recipe.train.optimizer, size)
        decided["batch_size"] = {"clips": size, "rate_factor": round(factor, 4)}
    if recipe.train.compile == "auto":
        decided["compile"] = _benchmark_compile(model, manifest, recipe, size, rows=rows)
    return decided


def _largest_batch(
    model: VideoClassifier, manifest: Manifest, recipe: Recipe, *, rows: int, device: torch.device
) -> int:
    """The largest power of two that fits in every phase; on a CPU, where larger is not faster, the default."""
    if device.type == "cpu":
        return min(DEFAULT_BATCH_SIZE, max(1, rows))
    most = max(1, min(MAX_BATCH_SIZE, rows // (MIN_BATCHES_PER_EPOCH * recipe.train.accumulate * process_count())))
    size = 2 ** int(math.log2(most))

    def halved() -> int:
        nonlocal size
        size //= 2
        return size

    @find_executable_batch_size(starting_batch_size=size, reduce_batch_size_fn=halved)
    def attempt(clips: int) -> int:
        for index in range(len(_phases(recipe))):
            _time_black_clips_step(model, manifest, recipe, index, clips=clips, steps=2)
        return clips

    try:
        return attempt()
    except RuntimeError as error:
        if "reached zero" not in str(error):
            raise
        raise RecipeError(
            "not even one clip fits into the device's memory: lower clip.size or clip.num_frames, or set "
            "train.activation_checkpointing=true"
        ) from None


def _benchmark_compile(
    model: VideoClassifier, manifest: Manifest, recipe: Recipe, size: int, *, rows: int
) -> dict[str, Any]:
    """Whether compiling saves more time than it takes, measured on the phase that computes most."""
    phases, accumulate = _phases(recipe), recipe.train.accumulate
    batches = math.ceil(rows / (size * accumulate * process_count()))
    timed = [(0.0, 0.0, 0)]
    for index, phase in enumerate(phases):
        if _has_frozen_part(model, phase, recipe):
            continue  # its features may be cached, and the layers after them are not compiled
        plain = _time_black_clips_step(model, manifest, recipe, index, clips=size, steps=3)
        timed.append((plain * phase.num_steps(batches) * accumulate, plain, index))
    all_steps, plain, index = max(timed, key=lambda phase_time: phase_time[0])
    if all_steps < MIN_SECONDS_TO_COMPILE:
        return {"pays": False, "seconds_of_all_steps": round(all_steps, 1)}
    compiled_model = copy.deepcopy(model)
    compiled_model.backbone.net.compile()
    started = time.perf_counter()
    compiled = _time_black_clips_step(compiled_model, manifest, recipe, index, clips=size, steps=4)
    compiling = time.perf_counter() - started - 4 * compiled
    saved = all_steps * (1 - compiled / plain)
    return {
        "pays": saved > compiling * len(phases),
        "seconds_of_a_step": round(plain, 4),
        "compiled": round(compiled, 4),
        "seconds_to_compile": round(compiling, 1),
        "seconds_saved": round(saved, 1),
    }


def _phases(recipe: Recipe) -> tuple[Phase, ...]:
    assert not isinstance(recipe.phases, Schedule)
    return recipe.phases


def _has_frozen_part(model: VideoClassifier, phase: Phase, recipe: Recipe) -> bool:
    precision = resolve_precision(recipe.train.precision, resolve_device(recipe.train.device))
    begin_phase(model, phase.with_train_defaults(recipe.train))
    frozen = cacheable_part(model, recipe, precision, lambda text: None)
    merge_lora(model)
    return frozen is not None


def _time_black_clips_step(
    model: VideoClassifier, manifest: Manifest, recipe: Recipe, index: int, *, clips: int, steps: int
) -> float:
    """Seconds of the last of `steps` training steps of phase `index` on black clips."""
    train = recipe.train.model_copy(update={"batch_size": clips})
    precision = resolve_precision(train.precision, resolve_device(train.device))
    recipe = recipe.model_copy(update={"train": train})
    setup = build_setup(model, manifest, recipe, precision=precision, is_trial=True)
    try:
        state, seconds = start_phase(setup, index), 0.0
        for number in range(1, steps + 1):
            started = time.perf_counter()
            train_step(state, dummy_batch(model, clips), StepNumbers(1, number, number), lr_factor=1.0)
            wait_for_device(setup.accelerator.device)
            seconds = time.perf_counter() - started
        return seconds
    finally:  # also if memory was too small
        model.zero_grad()
        end_phase(setup)


def _rate_factor(optimizer: str, clips: int) -> float:
    share = clips / DEFAULT_BATCH_SIZE
    return share if optimizer in LINEAR_LR_SCALING else math.sqrt(share)


def _scaled(phase: Phase, optimizer: str, clips: int) -> Phase:
    factor = _rate_factor(phase.optimizer or optimizer, clips)
    rates = {stage: rate * factor for stage, rate in phase.stage_lr.items()}
    return phase.model_copy(update={"lr": phase.lr * factor, "stage_lr": rates})
