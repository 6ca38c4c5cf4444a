"""Training, read from top to bottom: for each phase, for each epoch, for each batch. The one place for the order."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from finetune.data.manifest import Manifest
from finetune.feature_cache.frozen_part import cut_activations
from finetune.metrics.headline import epoch_sort_key
from finetune.model.begin_phase import begin_phase
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.lora import merge_lora
from finetune.recipe.phase_presets import resolve_phases
from finetune.recipe.schema import Augment, Clip, Data, Evaluate, Phase, Recipe, Schedule, Train
from finetune.recipe.tasks import Multitask
from finetune.run.checkpoint import load_checkpoint
from finetune.run.write import new_run_folder
from finetune.runtime.device import autocast, peak_gb, resolve_device, resolve_precision, seed_device
from finetune.runtime.processes import (
    broadcast_from_main,
    check_ranks_equal,
    gather_from_all,
    is_main_process,
    on_main_then_broadcast,
    process_count,
)
from finetune.runtime.threads import limit_threads
from finetune.train.distributed import (
    all_reduce_sum,
    all_reduce_tally,
    dummy_batch,
    gradient_is_finite,
    rank_loss_weight,
    refuse_sharding,
    stop_if_asked,
    with_sync_batch_norm,
)
from finetune.train.divergence import hint_at_first_loss, refuse_too_many, should_stop_early
from finetune.train.loaders import TrainLoaders, val_loader
from finetune.train.log.console import Display
from finetune.train.log.epoch_metrics import Tally, time_batches
from finetune.train.log.trackers import log_to_trackers, run_trackers
from finetune.train.loss.multitask import StepContext
from finetune.train.loss.objective import build_objective
from finetune.train.mixup import micro_batches, mix_clips
from finetune.train.optim.ema import Ema
from finetune.train.optim.l2_sp import L2SPPenalty
from finetune.train.optim.lr_schedule import mean_stage_lrs, phase_lr_factor
from finetune.train.optim.optimizer import build_optimizer, transfer_optimizer_state
from finetune.train.phase_data import ProgressCallbacks, RemainingWork, build_phase_data, cacheable_part
from finetune.train.setup.autotune import describe_auto_settings, resolve_auto_settings
from finetune.train.setup.preflight import fingerprint, load_file_facts, refuse_changed_files, run_preflight_checks
from finetune.train.state.data_digest import digest_data, refuse_changed_data
from finetune.train.state.run_writer import RunWriter
from finetune.train.state.signals import StopRequested, StopSignalHandler
from finetune.train.state.state import LoopPosition, State, TrainState, restore_position
from finetune.train.validation import merge_metrics, recompute_bn_statistics, validate
from finetune.video.dataset import draw_seed

MINUTES_BETWEEN_SAVES = 5 / 60  # checkpoints of epochs that take less, as those of kept features do
SHARED_RANK = 2**31  # the number of no process: what all of them draw alike, however many they are
COSINE_STEPS = 4  # steps of an epoch in which the gradients of several tasks are compared
EpochCallback = Callable[[dict[str, Any]], None]


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
    after_epoch: EpochCallback | None = None,
) -> Path:
    """Train a model on a manifest, phase by phase; the run folder, and the model left with its best weights.

    The best epoch is the one with the highest top-1 on the split val (mean average precision, where rows may have
    several classes), the lower loss deciding between equals; with no rows there, the last. Of `data`, `on_error`,
    `packed`, `workers` and `time_limit` are used. `after_epoch` is called with each line of metrics.jsonl; what it
    raises ends the run, which can be gone on with. Raises FinetuneError for all that is wrong before the first batch,
    and DivergedError when the loss is no longer a number.
    """
    clip = clip.model_copy(update={"size": model.size})
    if train.cache_dir is not None:
        train = train.model_copy(update={"cache_dir": train.cache_dir.expanduser().absolute()})
    if isinstance(data.packed, Path):
        data = data.model_copy(update={"packed": data.packed.absolute()})
    multilabel = manifest.targets is not None and not manifest.tasks
    data = data.model_copy(update={"multilabel": multilabel, "image_rate": manifest.image_rate})
    recipe = Recipe(
        seed=seed,
        data=data if data.manifest or data.folder else data.model_copy(update={"manifest": manifest.source}),
        clip=clip,
        augment=augment,
        model=model.settings,
        tasks=dict(model.multitask_spec.tasks) if model.multitask_spec else {},
        multitask=model.multitask_spec.multitask if model.multitask_spec else Multitask(),
        phases=resolve_phases(phases, tuple(model.stages)),
        train=train,
        evaluate=evaluate,
    )
    resolve_device(train.device)
    folder = on_main_then_broadcast(lambda: new_run_folder(Path(model.settings.backbone).name, out))
    run_preflight_checks(model, manifest, recipe, folder=folder)
    recipe, decided = resolve_auto_settings(model, manifest, recipe)
    return run_training(model, manifest, recipe, folder, decided=decided, quiet=quiet, after_epoch=after_epoch)


def run_training(
    model: VideoClassifier,
    manifest: Manifest,
    recipe: Recipe,
    folder: Path,
    *,
    state: State | None = None,
    decided: dict[str, Any] | None = None,
    quiet: bool = False,
    after_epoch: EpochCallback | None = None,
) -> Path:
    """Train by a whole recipe, from its start or from where a state was taken; see `fit` and `resume`.

    `decided` is what was left to the machine, which environment.json tells.
    """
    train, device = recipe.train, resolve_device(recipe.train.device)
    assert isinstance(train.batch_size, int)
    display = Display(quiet=quiet or not is_main_process())
    for line in describe_auto_settings(decided or {}):
        display.print_line(line)
    facts = load_file_facts(manifest, recipe, display)
    at = LoopPosition() if state is None else restore_position(state)
    began: dict[str, Any] = {
        "files": fingerprint(manifest, facts),
        "data": on_main_then_broadcast(lambda: digest_data(manifest)),
        "precision": resolve_precision(train.precision, device),
        "batch_size": train.batch_size * process_count(),
    }
    if state is not None:
        if "data" in state:
            refuse_changed_data(manifest, state["data"], began["data"])
        else:
            display.print_line(
                "this run began before labels and contents were noted: only the sizes of its files are compared"
            )
        refuse_changed_files(manifest, state["files"], began["files"])
        began = {key: state.get(key, value) for key, value in began.items()}
    precision = began["precision"]
    AcceleratorState._reset_state()  # a run before this one may have had another precision
    accelerator = Accelerator(
        mixed_precision=precision.replace("fp32", "no"), cpu=device.type == "cpu", log_with=list(train.trackers) or None
    )
    refuse_sharding(accelerator)
    is_writer = accelerator.is_main_process
    outputs = model.outputs if model.multitask_spec else None
    run = RunWriter(
        folder,
        manifest,
        recipe,
        began=began,
        bad=facts.bad,
        state=state,
        decided=decided,
        outputs=outputs,
        is_writer=is_writer,
    )
    if not is_writer:
        at.tally = Tally()  # a state's is of all processes, or, saved by the clock, of the main one alone
    accelerator.wait_for_everyone()
    best = max(map(epoch_sort_key, run.records), default=None)
    if state is not None and at.batches == 0 and run.records and epoch_sort_key(run.records[-1]) == best:
        run.save_best(model, run.records[-1])  # killed after `last` had been saved, before `best`
    model.to(accelerator.device)
    if train.sync_batch_norm:
        model = with_sync_batch_norm(model, accelerator)
    model.consensus, model.multilabel = recipe.evaluate.consensus, recipe.data.multilabel
    model.checkpointing = train.activation_checkpointing
    if train.compile:
        model.backbone.net.compile()
    objective = build_objective(
        model, manifest.without(facts.bad), recipe, partial(all_reduce_sum, accelerator=accelerator)
    )
    validation = val_loader(manifest, recipe, facts)
    share = accelerator.process_index, accelerator.num_processes
    loaders = TrainLoaders(manifest, recipe, facts, batch_size=began["batch_size"], share=share, outputs=outputs)
    ema, anchor, before = Ema(train.ema), L2SPPenalty(), None
    assert not isinstance(recipe.phases, Schedule)
    phases = [phase.with_train_defaults(train) for phase in recipe.phases]

    outer = run_trackers(accelerator, folder, recipe)
    with display, run, outer, closing(loaders), validation or nullcontext(), StopSignalHandler() as stopping:
        # Only one process validates: where there are more, none may stop then while the others wait.
        watch = (lambda *_: stopping.check()) if accelerator.num_processes == 1 else None
        batches_per_epoch = len(loaders.batches(loaders.dataset(phases[0])))
        run_epochs = sum(phase.num_epochs(batches_per_epoch) for phase in phases)
        run_steps = sum(phase.num_steps(batches_per_epoch) for phase in phases)
        for phase in phases[at.phase :]:
            learning, groups = begin_phase(model, phase, seed=draw_seed(recipe.seed, 0, at.phase, 0))
            frozen = cacheable_part(model, recipe, precision, display.print_line)
            anchor.start_phase(model, phase.l2_sp or 0.0, groups)
            peaks = [group["lr"] for group in groups]
            if at.steps_in_phase == 0 and not set(learning) <= set(HEAD_STAGES):
                run.save_start(model, at)
            # Wrapped anew in each phase: a stage that is unfrozen after wrapping gets no gradient averaging.
            prepared, optimizer = accelerator.prepare(model, build_optimizer(str(phase.optimizer), groups))
            if phase.keep_optimizer_state and before is not None:
                transfer_optimizer_state(before, optimizer.optimizer)
            before = optimizer.optimizer
            prepared.train()
            ema.start_phase(model)
            moving = TrainState(model, optimizer.optimizer, ema, anchor, objective, accelerator.scaler)
            if state is not None:
                moving.restore(state)
                state = None
            elif at.steps == 0:
                run.save_last(moving, at)
            cut = None if frozen is None else frozen.cut
            steps, epochs = phase.num_steps(batches_per_epoch), phase.num_epochs(batches_per_epoch)
            data = build_phase_data(
                model,
                phase,
                loaders,
                validation,
                frozen=frozen,
                left=RemainingWork(
                    range(at.epochs + 1, at.epochs + 1 + epochs - at.epochs_in_phase),
                    (steps - at.steps_in_phase) / batches_per_epoch,
                ),
                shown=ProgressCallbacks(display.print_line, cache_progress_callback(display, stopping)),
            )
            fits_one_thread = model.is_small_work(train.batch_size, cut=cut)
            data.held.enter_context(limit_threads(small=fits_one_thread))
            try:
                while at.epochs_in_phase < epochs and not should_stop_early(
                    run.records, at.phase, train.early_stopping
                ):
                    epoch, tally = at.epochs + 1, at.tally
                    data.batches.begin(epoch, first=at.batches)
                    prepared.train()
                    display.begin_epoch(
                        f"epoch {epoch}/{run_epochs}", min(batches_per_epoch - at.batches, steps - at.steps_in_phase)
                    )
                    for batch in time_batches(data.loader, tally):
                        if at.steps_in_phase == steps:
                            break
                        stop_if_asked(stopping, accelerator)
                        if run.minutes_since_saved >= train.save_every_minutes:
                            run.save_last(moving, at)
                        # Dropout and the like: a function of the place in the run alone.
                        draw = draw_seed(recipe.seed, epoch, at.batches, accelerator.process_index)
                        seed_device(draw, accelerator.device)
                        factor = phase_lr_factor(
                            phase, train, in_phase=(at.steps_in_phase, steps), in_run=(at.steps, run_steps)
                        )
                        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                            group["lr"] = peak * factor
                        at.after_batch()
                        run.record_skipped(batch["skipped"])
                        weight = rank_loss_weight(len(batch["label"]), accelerator)
                        if weight is None:
                            continue
                        if batch["clips"] is None:  # this process has no clip of the step; the others wait for it
                            batch |= dummy_batch(model)
                        clips = batch["clips"].flatten(0, 1)
                        if run.board is not None and at.steps_in_phase == 1 and clips.dtype == torch.uint8:
                            names = [manifest.label(row) for row in batch["row"].tolist()]
                            run.board.clips(clips, names, phase=at.phase, epoch=epoch)
                        if frozen is not None and clips.dtype == torch.uint8:
                            clips = cut_activations(model, clips, frozen)
                        clips, targets = mix_clips(
                            clips.to(accelerator.device),
                            batch["label"].to(accelerator.device),
                            augment=recipe.augment,
                            num_classes=len(model.classes),
                            seed=draw_seed(recipe.seed, epoch, at.steps_in_phase, accelerator.process_index),
                        )
                        loss, said = 0.0, []
                        fresh = draw_seed(recipe.seed, epoch, at.batches, SHARED_RANK)
                        step = StepContext(
                            fresh, at.batches <= COSINE_STEPS, accelerator.num_processes, is_dummy_batch=not weight
                        )
                        objective.begin(targets, step)
                        for part, labels, is_last in micro_batches(clips, targets, train.batch_size):
                            with nullcontext() if is_last else accelerator.no_sync(prepared):
                                # Not left to Accelerate, which does not wrap anew a model that it has wrapped before.
                                with autocast(precision, accelerator.device):
                                    said.append(prepared(part, cut))
                                of_step = len(part) / len(clips)
                                part_loss = of_step * objective.loss(said[-1], labels, weight * of_step)
                                pull = anchor.penalty() + objective.penalty() if is_last else 0.0
                                accelerator.backward(weight * part_loss + pull)
                            loss += float(part_loss.detach())
                        if at.steps == 1 and (hint := hint_at_first_loss(loss, model, train.loss)):
                            display.print_line(hint)
                        if not gradient_is_finite(loss, prepared, train, accelerator):
                            at.left_out += 1
                            refuse_too_many(at.left_out, loss, batch, manifest, train, folder=folder)
                            display.print_line(f"step {at.steps} left out: its gradient is not a number")
                            optimizer.zero_grad()
                            if accelerator.scaler is not None:
                                accelerator.scaler.update()
                            continue
                        if run.board is not None and train.log_gradients and at.batches == 1:
                            run.board.gradients(model, epoch=epoch)
                        optimizer.step()
                        optimizer.zero_grad()
                        ema.update(model)
                        again = []
                        if objective.wants_losses_after:
                            seed_device(draw, accelerator.device)
                            with torch.no_grad(), autocast(precision, accelerator.device):
                                parts = micro_batches(clips, targets, train.batch_size)
                                again = [(prepared(part, cut), labels) for part, labels, _ in parts]
                        objective.after_step(again)
                        judged = objective.judged(said, targets) if weight else None
                        tally.add(loss, len(clips) if weight else 0, judged, factor)
                        display.step(loss=tally.loss, clips_per_second=tally.clips_per_second)

                    all_reduce_tally(tally, accelerator)
                    run.record_skipped(gather_from_all([*run.skipped.items()]))
                    started = time.perf_counter()
                    with ema.averaged_weights(model):
                        found = validate(model, data.validation, precision, run, watch, frozen) if is_writer else None
                        found = broadcast_from_main(found)
                        tally.seconds["evaluate"] = time.perf_counter() - started
                        record = {
                            "epoch": epoch,
                            "phase": at.phase,
                            "train": phase.words,
                            "epoch_in_phase": at.epochs_in_phase + 1,
                            "learning": learning,
                            "lr": mean_stage_lrs(model, groups, peaks, tally.mean_lr_factor),
                            **tally.figures(),
                            **merge_metrics(objective.after_epoch(), found),
                            "skipped": len(run.skipped),
                            "peak_gb": peak_gb(accelerator.device),
                            **({} if data.cache_record is None else {"cache": data.cache_record}),
                        }
                        run.write(record)
                        log_to_trackers(accelerator, record)
                        display.epoch(record)
                        run.save_epoch(model, record)
                    at.after_epoch()
                    due = run.minutes_since_saved >= MINUTES_BETWEEN_SAVES
                    if due:
                        run.save_last(moving, at)
                    validated = record["val_loss"] is not None
                    if best is None or epoch_sort_key(record) > best if validated else due:
                        best = epoch_sort_key(record)
                        with ema.averaged_weights(model):
                            run.save_best(model, record)
                    accelerator.wait_for_everyone()
                    if after_epoch is not None:
                        after_epoch(record)
                run.save_last(moving, at)
                if run.records and run.records[-1]["val_loss"] is None:  # without validation the last is the best
                    with ema.averaged_weights(model):
                        run.save_best(model, run.records[-1])
            except StopRequested:
                all_reduce_tally(at.tally, accelerator)
                run.save_last(moving, at)
                accelerator.wait_for_everyone()  # a launcher ends all processes when the first has gone
                raise
            finally:
                data.close()
            check_ranks_equal(model)
            model = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
            merge_lora(model)
            accelerator.free_memory()
            at.after_phase()
        record = load_checkpoint(folder, "best", model)
        if train.precise_bn and is_writer:
            layers = recompute_bn_statistics(model, loaders, phases[record["phase"]], precision, epoch=at.epochs + 1)
            record |= {"recalibrated": layers, **validate(model, validation, precision, run)}
            run.save_best(model, record)
        stopping.check()
    model.eval()
    return folder


def cache_progress_callback(display: Display, stopping: StopSignalHandler) -> Callable[[str, int, int], None]:
    """Show how far the computing of what is kept has come, and let it be stopped."""

    def progress(name: str, done: int, rows: int) -> None:
        display.show_cache_progress(f"frozen work, {name} rows", done, rows)
        stopping.check()

    return progress
