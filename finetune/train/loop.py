"""Training, read from top to bottom: for each phase, for each epoch, for each batch. The one place for the order."""

import math
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter

from finetune.checkpoint import begin_run, load_checkpoint, new_run_folder, save_checkpoint
from finetune.errors import FinetuneError
from finetune.evaluation import probabilities_of
from finetune.infer import (
    agreed,
    is_main_process,
    refuse_ranks_that_differ,
    seed_device,
    settle_device,
    settle_precision,
)
from finetune.manifest import Manifest
from finetune.model.freeze import set_trainable
from finetune.model.lora import add_lora, merge_lora
from finetune.model.model import TASK, VideoClassifier
from finetune.model.rates import param_groups
from finetune.model.stages import NEW
from finetune.recipe import Augment, Clip, Data, Evaluate, Phase, Recipe, Schedule, Train
from finetune.schedules import phases_of
from finetune.train.anchor import Anchor
from finetune.train.display import Display
from finetune.train.ema import Ema
from finetune.train.loaders import TrainLoaders, val_loader
from finetune.train.losses import build_loss
from finetune.train.mixing import mix
from finetune.train.optimizer import build_optimizer, carry_state
from finetune.train.preflight import look, refuse_what_cannot_run
from finetune.train.recalibrate import recalibrate
from finetune.train.record import RunFiles, Tally, timed
from finetune.train.schedule import rate_factor
from finetune.video.dataset import draw_of
from finetune.video.loader import ClipLoader

ENOUGH = 200  # batches to measure batch norm on


def fit(
    model: VideoClassifier,
    manifest: Manifest,
    phases: Sequence[Phase] | Schedule,
    *,
    clip: Clip = Clip(),
    augment: Augment = Augment(),
    train: Train = Train(),
    data: Data = Data(workers=0),
    evaluate: Evaluate = Evaluate(),
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model on a manifest, phase by phase; the run folder, and the model left with its best weights.

    The best epoch is the one with the highest top-1 on the split val, the lower loss deciding between equals; with
    no rows there, the last. Of `data`, `on_error`, `packed`, `workers` and `time_limit` are used. Raises
    FinetuneError for all that is wrong before the first batch, and when the loss is no longer a number.
    """
    clip = clip.model_copy(update={"size": model.size})
    if data.packed is not None:
        data = data.model_copy(update={"packed": data.packed.absolute()})
    phases = phases_of(phases, tuple(model.stages))
    recipe = Recipe(
        seed=seed,
        data=data if data.manifest or data.folder else data.model_copy(update={"manifest": manifest.source}),
        clip=clip,
        augment=augment,
        model=model.settings,
        phases=phases,
        train=train,
        evaluate=evaluate,
    )
    device = settle_device(train.device)
    folder = agreed(Path(out) if out is not None else new_run_folder(Path(model.settings.backbone).name))
    refuse_what_cannot_run(model, manifest, recipe, folder=folder)
    display = Display(quiet=quiet or not is_main_process())
    facts = look(manifest, recipe, display)
    model.checkpointing = train.checkpointing
    if train.compile:
        model.backbone.net.compile()

    precision = settle_precision(train.precision, device)
    accelerator = Accelerator(mixed_precision=precision.replace("fp32", "no"), cpu=device.type == "cpu")
    if accelerator.is_main_process:
        begin_run(folder, recipe, manifest)
    accelerator.wait_for_everyone()
    board = SummaryWriter(str(folder / "tensorboard")) if accelerator.is_main_process else None
    run = RunFiles(folder, facts, manifest, board)

    counts = manifest.without(facts.bad).counts("train").values()
    loss_of = build_loss(train.loss, class_counts=list(counts), label_smoothing=train.label_smoothing)
    model.consensus = evaluate.consensus
    validation = val_loader(manifest, recipe, facts)
    loaders = TrainLoaders(manifest, recipe, facts, (accelerator.process_index, accelerator.num_processes))
    ema, anchor = Ema(train.ema), Anchor()
    best: tuple[float, float] | None = None
    pretrained, before = True, None
    epoch, run_step = 0, 0
    with display, closing(loaders), validation or nullcontext():
        batches_per_epoch = len(loaders.of(phases[0])[1])
        run_epochs = sum(phase.epochs_of(batches_per_epoch) for phase in phases)
        run_steps = sum(phase.steps_of(batches_per_epoch) for phase in phases)
        for phase_index, phase in enumerate(each.settled(train) for each in phases):
            add_lora(model, phase.train, seed=draw_of(seed, 0, phase_index, 0))
            learning = set_trainable(model, phase.train, batch_norm=phase.batch_norm)
            groups = param_groups(
                model,
                lr=phase.lr,
                weight_decay=phase.weight_decay or 0.0,
                layer_decay=phase.layer_decay,
                backbone_lr_scale=phase.backbone_lr_scale,
                stage_lr=phase.stage_lr,
            )
            anchor.follow(model, phase.anchor or 0.0, groups)
            peaks = [group["lr"] for group in groups]
            if pretrained and not set(learning) <= set(NEW):
                pretrained = False  # what weights are interpolated to afterwards: a trained head on the old backbone
                if accelerator.is_main_process:
                    save_checkpoint(folder, "start", model, {"epoch": epoch})
            # Wrapped anew in each phase: a stage that is unfrozen after wrapping gets no gradient averaging.
            prepared, optimizer = accelerator.prepare(model, build_optimizer(str(phase.optimizer), groups))
            if phase.carry and before is not None:
                carry_state(before, optimizer.optimizer)
            before = optimizer.optimizer
            prepared.train()
            ema.follow(model)
            loader, batches = loaders.of(phase)
            steps, step = phase.steps_of(batches_per_epoch), 0

            for epoch_in_phase in range(phase.epochs_of(batches_per_epoch)):
                epoch += 1
                batches.epoch = epoch
                prepared.train()
                tally = Tally()
                display.begin_epoch(f"epoch {epoch}/{run_epochs}", min(batches_per_epoch, steps - step))

                for number, batch in enumerate(timed(loader, tally)):
                    if step == steps:
                        break
                    # Dropout and the like: a function of the place in the run alone.
                    seed_device(draw_of(seed, epoch, number, accelerator.process_index), accelerator.device)
                    factor = _rate_factor(phase, train, at=(step, steps), in_run=(run_step, run_steps))
                    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                        group["lr"] = peak * factor
                    step, run_step = step + 1, run_step + 1
                    run.note_skipped(batch["skipped"])
                    if batch["clips"] is None:
                        continue
                    clips, targets = mix(
                        batch["clips"].flatten(0, 1).to(accelerator.device),
                        batch["label"].to(accelerator.device),
                        augment=augment,
                        num_classes=len(model.classes),
                        seed=draw_of(seed, epoch, step, accelerator.process_index),
                    )
                    logits = prepared(clips)[TASK]
                    loss = loss_of(logits.float(), targets)
                    _refuse_no_number(loss, batch, manifest, folder=folder)
                    accelerator.backward(loss + anchor.penalty())
                    if train.clip_grad is not None:
                        accelerator.clip_grad_norm_(prepared.parameters(), train.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
                    ema.update(model)
                    tally.add(loss, logits, targets.argmax(1), factor)
                    display.step(loss=tally.loss, clips_per_second=tally.clips_per_second)

                started = time.perf_counter()
                with ema.in_place(model):
                    val_loss, val_top1 = (
                        _validate(model, validation, precision, run) if accelerator.is_main_process else (None, None)
                    )
                    tally.seconds["evaluate"] = time.perf_counter() - started
                    record = {
                        "epoch": epoch,
                        "phase": phase_index,
                        "train": phase.words,
                        "epoch_in_phase": epoch_in_phase + 1,
                        "learning": learning,
                        "lr": _rates(model, groups, peaks, tally.mean_factor),
                        **tally.figures(),
                        "val_loss": val_loss,
                        "val_top1": val_top1,
                        "skipped": len(run.skipped),
                    }
                    if accelerator.is_main_process:
                        run.write(record)
                        display.epoch(record)
                        save_checkpoint(folder, "last", model, record)
                        rank = (val_top1 if val_top1 is not None else 0.0, -(val_loss or 0.0))
                        if best is None or val_top1 is None or rank > best:
                            best = rank
                            save_checkpoint(folder, "best", model, record)
                accelerator.wait_for_everyone()
            refuse_ranks_that_differ(model)
            model = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
            merge_lora(model)
            accelerator.free_memory()
        record = load_checkpoint(folder, "best", model)
        if train.recalibrate and accelerator.is_main_process:
            layers = _recalibrate(model, loaders, phases[record["phase"]], precision, epoch=epoch + 1)
            val_loss, val_top1 = _validate(model, validation, precision, run)
            record |= {"recalibrated": layers, "val_loss": val_loss, "val_top1": val_top1}
            save_checkpoint(folder, "best", model, record)
    run.close()
    model.eval()
    return folder


def _rate_factor(phase: Phase, train: Train, *, at: tuple[int, int], in_run: tuple[int, int]) -> float:
    """Of the phase's own schedule, or of the one that runs through all phases."""
    if train.schedule_over == "run":
        return rate_factor(*in_run, schedule=train.schedule, warmup=train.warmup)
    return rate_factor(*at, schedule=phase.schedule or train.schedule, warmup=phase.warmup or 0.0)


def _validate(
    model: VideoClassifier, loader: ClipLoader | None, precision: str, run: RunFiles
) -> tuple[float | None, float | None]:
    """Loss and top-1 on the split val, each row once."""
    if loader is None:
        return None, None
    scored, skipped = probabilities_of(model, loader, precision=precision)
    run.note_skipped(list(skipped.items()))
    if not scored:
        return None, None
    rows = np.array(sorted(scored))
    probs_NK = np.stack([scored[row] for row in rows])
    labels_N = run.manifest.labels[rows]
    likelihood_N = probs_NK[np.arange(len(rows)), labels_N]
    loss = float(-np.log(np.maximum(likelihood_N, 1e-12)).mean())
    return loss, float((probs_NK.argmax(1) == labels_N).mean())


def _rates(
    model: VideoClassifier, groups: Sequence[dict[str, Any]], peaks: Sequence[float], factor: float
) -> dict[str, float]:
    """The mean learning rate of an epoch for each stage; 0 where frozen."""
    rates = {group["stage"]: peak * factor for group, peak in zip(groups, peaks, strict=True)}
    return {stage: rates.get(stage, 0.0) for stage in model.stages}


def _refuse_no_number(loss: torch.Tensor, batch: dict[str, Any], manifest: Manifest, *, folder: Path) -> None:
    if math.isfinite(float(loss.detach())):
        return
    files = "\n".join(str(manifest.path(row)) for row in batch["row"].tolist())
    raise FinetuneError(
        f"the loss is {float(loss.detach())}; lower the phase's lr, or set train.clip_grad=1.0 or "
        f"train.precision=fp32. The last finished epoch is kept in {folder / 'checkpoints' / 'last'}. "
        f"The clips of this step:\n{files}"
    )


def _recalibrate(model: VideoClassifier, loaders: TrainLoaders, phase: Phase, precision: str, *, epoch: int) -> int:
    """Measure batch norm anew on training clips, where the phase of the best weights updated it."""
    set_trainable(model, phase.train, batch_norm=phase.batch_norm)
    loader, batches = loaders.of(phase)
    batches.epoch = epoch
    clips = (batch["clips"].flatten(0, 1) for batch in islice(loader, ENOUGH) if batch["clips"] is not None)
    return recalibrate(model, clips, precision=precision)
