"""Training, read from top to bottom: for each phase, for each epoch, for each batch. The one place for the order."""

import json
import math
import shutil
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from finetune.checkpoint import begin_run, load_checkpoint, new_run_folder, save_checkpoint, write_json
from finetune.errors import DataError, FinetuneError, ModelError, RecipeError, RunError
from finetune.evaluation import evaluation_loader, probabilities_of
from finetune.infer import agreed, is_main_process, refuse_ranks_that_differ, settle_device, settle_precision
from finetune.manifest import Manifest
from finetune.model.freeze import learning_stages_of, param_groups, set_trainable
from finetune.model.model import TASK, VideoClassifier
from finetune.recipe import Augment, Clip, Data, Evaluate, Phase, Recipe, Train
from finetune.train.display import Display
from finetune.train.mixing import mix
from finetune.train.optimizer import build_optimizer, rate_factor
from finetune.video.batches import EpochBatches, balanced_draws
from finetune.video.dataset import ClipDataset, draw_of
from finetune.video.facts import Facts
from finetune.video.loader import ClipLoader, worker_count
from finetune.video.packed import facts_of


def fit(
    model: VideoClassifier,
    manifest: Manifest,
    phases: Sequence[Phase],
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
    recipe = Recipe(
        seed=seed,
        data=data if data.manifest or data.folder else data.model_copy(update={"manifest": manifest.source}),
        clip=clip,
        augment=augment,
        model=model.settings,
        phases=tuple(phases),
        train=train,
        evaluate=evaluate,
    )
    device = settle_device(train.device)
    folder = agreed(Path(out) if out is not None else new_run_folder(Path(model.settings.backbone).name))
    _refuse_what_cannot_run(model, manifest, recipe, folder=folder)
    display = Display(quiet=quiet or not is_main_process())
    facts = _look(manifest, recipe, display)
    model.checkpointing = train.checkpointing
    if train.compile:
        model.backbone.net.compile()

    precision = settle_precision(train.precision, device)
    accelerator = Accelerator(mixed_precision=precision.replace("fp32", "no"), cpu=device.type == "cpu")
    if accelerator.is_main_process:
        begin_run(folder, recipe, manifest)
    accelerator.wait_for_everyone()
    board = SummaryWriter(str(folder / "tensorboard")) if accelerator.is_main_process else None
    run = _Run(folder, facts, manifest, board)

    val_loader = _val_loader(manifest, recipe, facts)
    loaders = _TrainLoaders(manifest, recipe, facts, (accelerator.process_index, accelerator.num_processes))
    best: tuple[float, float] | None = None
    epoch = 0
    with display, closing(loaders), val_loader or nullcontext():
        for phase_index, phase in enumerate(phases):
            learning = set_trainable(model, phase.train, batch_norm=phase.batch_norm)
            groups = param_groups(model, lr=phase.lr, weight_decay=train.weight_decay, layer_decay=phase.layer_decay)
            peaks = [group["lr"] for group in groups]
            # Wrapped anew in each phase: a stage that is unfrozen after wrapping gets no gradient averaging.
            prepared, optimizer = accelerator.prepare(model, build_optimizer(train.optimizer, groups))
            loader, batches = loaders.of(phase)
            steps, step = phase.epochs * len(batches), 0

            for epoch_in_phase in range(phase.epochs):
                epoch += 1
                batches.epoch = epoch
                torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
                prepared.train()
                tally = _Tally()
                display.begin_epoch(f"epoch {epoch}/{sum(p.epochs for p in phases)}", len(batches))

                for batch in _timed(loader, tally):
                    factor = rate_factor(step, steps, schedule=train.schedule, warmup=train.warmup)
                    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                        group["lr"] = peak * factor
                    step += 1
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
                    loss = F.cross_entropy(logits.float(), targets, label_smoothing=train.label_smoothing)
                    _refuse_no_number(loss, batch, manifest, folder=folder)
                    accelerator.backward(loss)
                    if train.clip_grad is not None:
                        accelerator.clip_grad_norm_(prepared.parameters(), train.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
                    tally.add(loss, logits, targets.argmax(1), factor)
                    display.step(loss=tally.loss, clips_per_second=tally.clips_per_second)

                started = time.perf_counter()
                val_loss, val_top1 = (
                    _validate(model, val_loader, precision, run) if accelerator.is_main_process else (None, None)
                )
                tally.seconds["evaluate"] = time.perf_counter() - started
                record = {
                    "epoch": epoch,
                    "phase": phase_index,
                    "train": phase.train if isinstance(phase.train, str) else ", ".join(phase.train),
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
            accelerator.free_memory()
    run.close()
    load_checkpoint(folder, "best", model)
    model.eval()
    return folder


def _refuse_what_cannot_run(model: VideoClassifier, manifest: Manifest, recipe: Recipe, *, folder: Path) -> None:
    """Everything that can be known to fail before a video is read, all at once."""
    problems = []
    if tuple(manifest.classes) != model.classes:
        problems.append(f"the model has the classes {model.classes}, the data {manifest.classes}")
    needs_frames = recipe.model.temporal == "concat" or model.backbone.fixed_frames is not None
    if recipe.clip.num_frames != model.num_frames and needs_frames:
        problems.append(f"clip.num_frames is {recipe.clip.num_frames}, the model was built for {model.num_frames}")
    for index, phase in enumerate(recipe.phases):
        try:
            learning_stages_of(tuple(model.stages), phase.train)
        except ModelError as error:
            problems.append(f"phases.{index}.train: {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    if not is_main_process():
        return
    new_run_folder("", folder)
    weights_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    refuse_full_disk(folder, needed_bytes=3 * weights_bytes + 50_000_000)


def refuse_full_disk(folder: Path, *, needed_bytes: int) -> None:
    """Raise RunError when the disk of a folder, or of the parent where it will be made, has less room than needed."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise RunError(
            f"{folder}: needs about {needed_bytes / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free; "
            "make room, or choose another disk with --out"
        )


def _look(manifest: Manifest, recipe: Recipe, display: Display) -> Facts:
    assert recipe.clip.size is not None
    facts = facts_of(manifest, recipe.data.packed, side=recipe.clip.size)
    if facts.bad and recipe.data.on_error == "fail":
        listed = "\n".join(facts.bad[row] for row in sorted(facts.bad))
        raise DataError(
            f"{listed}\n{len(facts.bad)} of {len(manifest)} files cannot be read; mend or remove them, "
            "or leave them out with data.on_error=skip"
        )
    readable = manifest.without(facts.bad)
    untaught = [name for name, count in readable.counts("train").items() if not count]
    if untaught:
        raise DataError(f"{manifest.source}: no readable training video of {', '.join(untaught)}")
    if facts.bad:
        display.say(f"leaving out {len(facts.bad)} files that cannot be read; the report lists them")
    return facts


class _TrainLoaders:
    """The training loader of a phase; phases with the same augmentation share one, and its processes."""

    def __init__(self, manifest: Manifest, recipe: Recipe, facts: Facts, rank_and_world: tuple[int, int]) -> None:
        self.manifest = manifest
        self.recipe = recipe
        self.facts = facts
        self.share = rank_and_world
        self.preset = ""
        self.current: tuple[ClipLoader, EpochBatches] | None = None

    def of(self, phase: Phase) -> tuple[ClipLoader, EpochBatches]:
        recipe, preset = self.recipe, phase.augment or self.recipe.augment.preset
        if self.current is None or preset != self.preset:
            dataset = ClipDataset(
                self.manifest,
                "train",
                clip=recipe.clip,
                augment=recipe.augment.model_copy(update={"preset": preset}),
                seed=recipe.seed,
                facts=self.facts,
                packed=recipe.data.packed,
            )
            batches = EpochBatches(
                len(dataset),
                recipe.train.batch_size,
                seed=recipe.seed,
                draws=balanced_draws(dataset.labels) if recipe.train.sampler == "balanced" else None,
                share=self.share,
            )
            self.close()
            workers = min(worker_count(recipe.data.workers), len(batches))
            pin, limit = torch.cuda.is_available(), recipe.data.time_limit
            loader = ClipLoader(dataset, batches, workers=workers, time_limit=limit, pin=pin)
            self.preset, self.current = preset, (loader, batches)
        return self.current

    def close(self) -> None:
        if self.current is not None:
            self.current[0].close()


def _val_loader(manifest: Manifest, recipe: Recipe, facts: Facts) -> ClipLoader | None:
    views, packed = recipe.evaluate.views, recipe.data.packed
    dataset = ClipDataset(manifest, "val", clip=recipe.clip, views=views, facts=facts, packed=packed)
    if not len(dataset):
        return None
    return evaluation_loader(dataset, recipe.data, batch_size=recipe.train.batch_size)


class _Tally:
    """Sums over one epoch, this process's share."""

    def __init__(self) -> None:
        self.clips, self.right, self.total_loss = 0, 0, 0.0
        self.factors: list[float] = []
        self.seconds = {"data": 0.0, "compute": 0.0, "evaluate": 0.0}

    def add(self, loss: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor, factor: float) -> None:
        self.clips += len(labels_B)
        self.right += int((logits_BK.argmax(1) == labels_B).sum())
        self.total_loss += float(loss.detach()) * len(labels_B)
        self.factors.append(factor)

    @property
    def loss(self) -> float:
        return self.total_loss / max(1, self.clips)

    @property
    def mean_factor(self) -> float:
        return sum(self.factors) / max(1, len(self.factors))

    @property
    def clips_per_second(self) -> float:
        return self.clips / max(1e-9, self.seconds["data"] + self.seconds["compute"])

    def figures(self) -> dict[str, Any]:
        return {
            "train_loss": self.loss,
            "train_top1": self.right / max(1, self.clips),
            "clips_per_second": round(self.clips_per_second, 2),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def _timed(loader: ClipLoader, tally: _Tally) -> Any:
    """Batches of a loader; the seconds waited for each, and those worked on each, go to the tally."""
    started = time.perf_counter()
    for batch in loader:
        arrived = time.perf_counter()
        tally.seconds["data"] += arrived - started
        yield batch
        started = time.perf_counter()
        tally.seconds["compute"] += started - arrived


class _Run:
    """The files of a run that grow while it trains; without a board, in other processes than the main one, none."""

    def __init__(self, folder: Path, facts: Facts, manifest: Manifest, board: SummaryWriter | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.board = board
        self.skipped = dict(facts.bad)
        self._write_skipped()

    def note_skipped(self, items: Sequence[tuple[int, str]]) -> None:
        new = [item for item in items if item[0] not in self.skipped]
        self.skipped.update(new)
        if new:
            self._write_skipped()

    def write(self, record: dict[str, Any]) -> None:
        assert self.board is not None
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        for name in ("train_loss", "train_top1", "val_loss", "val_top1", "clips_per_second"):
            if record[name] is not None:
                self.board.add_scalar(name, record[name], record["epoch"])
        for stage, rate in record["lr"].items():
            self.board.add_scalar(f"lr/{stage}", rate, record["epoch"])
        self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _write_skipped(self) -> None:
        if self.board is None:
            return
        listed = [
            {"path": str(self.manifest.path(row)), "split": str(self.manifest.splits[row]), "reason": reason}
            for row, reason in sorted(self.skipped.items())
        ]
        write_json(self.folder / "skipped.json", listed)


def _validate(
    model: VideoClassifier, loader: ClipLoader | None, precision: str, run: _Run
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
