"""The training loop, read from top to bottom: for each phase, for each epoch, for each batch a `train_step`."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.model.standardized_head import fold_standardization
from finetune.recipe.schema import Recipe
from finetune.runtime.device import peak_gb
from finetune.runtime.processes import broadcast_from_main, check_ranks_equal, gather_from_all
from finetune.train.divergence import hint_at_first_loss, refuse_too_many, should_stop_early
from finetune.train.head_start import start_head
from finetune.train.loaders import TrainLoaders
from finetune.train.log.console import Display
from finetune.train.log.trackers import log_to_trackers, run_trackers
from finetune.train.optim.lr_schedule import mean_stage_lrs, phase_lr_factor
from finetune.train.phase import build_setup, end_phase, start_phase
from finetune.train.phase_data import PhaseData, ProgressCallbacks, RemainingWork, build_phase_data
from finetune.train.position import LoopPosition, Tally, restore_position, time_batches
from finetune.train.setup.preflight import load_file_facts
from finetune.train.state.data_digest import starting_point
from finetune.train.state.run_writer import RunStart, RunWriter
from finetune.train.state.signals import StopRequested, StopSignalHandler
from finetune.train.state.state import State, restore_state
from finetune.train.step import TrainSetup, TrainState, train_step
from finetune.train.validation import merge_metrics, recompute_bn_statistics, validate
from finetune.video.file_facts import typical_clip_seconds

MINUTES_BETWEEN_SAVES = 5 / 60  # at least, so that short epochs on cached features are not slowed down by saving
EpochCallback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Loop:
    """What the loop works with, from the start of a run to its end."""

    setup: TrainSetup
    loaders: TrainLoaders
    run: RunWriter
    at: LoopPosition
    display: Display
    stopping: StopSignalHandler
    after_epoch: EpochCallback | None


def run_training(
    model: VideoClassifier,
    manifest: Manifest,
    recipe: Recipe,
    start: RunStart,
    *,
    display: Display,
    after_epoch: EpochCallback | None = None,
) -> Path:
    """Train by a resolved recipe, from the beginning or from a saved state; the run folder. See `fit` and `resume`."""
    facts = load_file_facts(manifest, recipe, display)
    fixed = starting_point(manifest, facts, recipe, start.state, print_line=display.print_line)
    setup = build_setup(model, manifest.without(facts.bad), recipe, precision=fixed["precision"])
    model, accelerator = setup.model, setup.accelerator
    outputs = model.outputs if model.multitask_spec else None
    loaders = TrainLoaders(manifest, recipe, facts, batch_size=fixed["batch_size"], share=setup.share, outputs=outputs)
    run = RunWriter(start, manifest, recipe, model, fixed=fixed, bad=facts.bad)  # takes the folder's lock
    at = LoopPosition() if start.state is None else restore_position(start.state["position"])
    if not run.is_writer:
        at.tally = Tally()  # the main process has the saved sums, which may be those of all processes
    accelerator.wait_for_everyone()
    if (seconds := typical_clip_seconds(manifest, facts)) is not None:
        run.record_decided({"clip_seconds": seconds})
    if start.state is not None and at.batches == 0 and run.records and run.last_is_best:
        run.save_best(model, run.records[-1])  # a run that was killed after saving `last` and before `best`
    trackers = run_trackers(accelerator, run.folder, recipe)
    with display, run, trackers, loaders, StopSignalHandler(display.answer_signal) as stopping:
        display.resume(run.records)
        loop = Loop(setup, loaders, run, at, display, stopping, after_epoch)
        train_phases(loop, start.state)
        finish_run(loop)
    model.eval().run_folder = run.folder
    return run.folder


def train_phases(loop: Loop, saved: State | None) -> None:
    """Train the remaining phases; the first continues from the saved state, if there is one."""
    setup, run, at = loop.setup, loop.run, loop.at
    batches, previous = loop.loaders.batches_per_epoch, None
    while at.phase < len(setup.phases):
        state = start_phase(setup, at.phase, previous=previous, print_line=loop.display.print_line)
        previous = state.optimizer.optimizer
        if saved is not None:
            restore_state(state, saved)
            saved = None
        elif at.steps == 0:
            run.save_last(state, at)
        if at.steps == 0:
            _start_head(loop, state)
        if at.steps_in_phase == 0 and state.trains_backbone:
            run.save_start(setup.model, at)
        with closing(_load_phase_data(loop, state)) as data, state.limit_threads(), _saved_when_stopped(loop, state):
            while at.epochs_in_phase < state.phase.num_epochs(batches) and not _is_stalled(loop):
                train_epoch(loop, state, data)
                finish_epoch(loop, state, data)
            run.save_last(state, at)
            if run.records and run.records[-1]["val_loss"] is None:  # without validation the last is the best
                with setup.ema.averaged_weights(setup.model):
                    run.save_best(setup.model, run.records[-1])
        check_ranks_equal(setup.model)
        end_phase(setup)
        at.after_phase()


def train_epoch(loop: Loop, state: TrainState, data: PhaseData) -> None:
    """Train on the remaining batches of the current epoch, one step for each."""
    setup, run, at, display, phase = loop.setup, loop.run, loop.at, loop.display, state.phase
    train, tally, epoch = setup.recipe.train, at.tally, at.epochs + 1
    batches = loop.loaders.batches_per_epoch
    steps, run_steps = phase.num_steps(batches), sum(other.num_steps(batches) for other in setup.phases)
    run_epochs = sum(other.num_epochs(batches) for other in setup.phases)
    left = min(batches - at.batches, steps - at.steps_in_phase)
    display.begin_epoch(f"epoch {epoch}/{run_epochs}", left, run=(at.steps, run_steps))
    data.batches.begin(epoch, first=at.batches)
    state.wrapped.train()
    for batch in time_batches(data.loader, tally, left):
        loop.stopping.check_all(setup.accelerator)
        if run.minutes_since_saved >= train.save_every_minutes:
            run.save_last(state, at)
        factor = phase_lr_factor(phase, train, in_phase=(at.steps_in_phase, steps), in_run=(at.steps, run_steps))
        at.after_batch()
        run.record_skipped(batch["skipped"])
        if at.steps_in_phase == 1:
            run.show_clips(batch, at)
        shows_gradients = run.board is not None and train.log_gradients and at.batches == 1
        result = train_step(state, batch, at.step_numbers, lr_factor=factor, keep_gradients=shows_gradients)
        if result is None:
            continue
        if at.steps == 1 and (hint := hint_at_first_loss(result.loss, setup.model, train.loss)):
            display.print_line(hint)
        if not result.is_finite:
            at.left_out += 1
            refuse_too_many(at.left_out, result.loss, batch, run.manifest, train, folder=run.folder)
            display.print_line(f"step {at.steps} skipped: its gradient is not finite")
            continue
        if shows_gradients and run.board is not None:
            run.board.gradients(setup.model, epoch=epoch)
            state.optimizer.zero_grad()
        tally.add(result.loss, result.clips, result.judged, factor)
        display.step(loss=tally.loss, clips_per_second=tally.clips_per_second)


def finish_epoch(loop: Loop, state: TrainState, data: PhaseData) -> None:
    """Validate the current epoch after its last batch, record it and save."""
    setup, run, at, tally = loop.setup, loop.run, loop.at, loop.at.tally
    model, accelerator = setup.model, setup.accelerator
    tally.reduce(accelerator)
    run.record_skipped(gather_from_all([*run.skipped.items()]))

    started, watch = time.perf_counter(), partial(_during_validation, loop)
    with setup.ema.averaged_weights(model):
        metrics = None
        if run.is_writer:
            metrics = validate(model, data.validation, setup.precision, run, watch, state.frozen)
        metrics = broadcast_from_main(metrics)
        tally.seconds["evaluate"] = time.perf_counter() - started
        record = {
            "epoch": at.epochs + 1,
            "phase": at.phase,
            "train": state.phase.words,
            "epoch_in_phase": at.epochs_in_phase + 1,
            "learning": state.trainable_stages,
            "lr": mean_stage_lrs(model, state.groups, state.peak_lrs, tally.mean_lr_factor),
            **tally.figures(),
            **merge_metrics(setup.objective.after_epoch(), metrics),
            "skipped": len(run.skipped),
            "peak_gb": peak_gb(accelerator.device),
            **({} if data.cache_record is None else {"cache": data.cache_record}),
        }
        run.write(record)
        log_to_trackers(accelerator, record)
        loop.display.epoch(record)
        run.save_epoch(model, record)
    at.after_epoch()
    is_due = run.minutes_since_saved >= MINUTES_BETWEEN_SAVES
    if is_due:
        run.save_last(state, at)
    if run.last_is_best if record["val_loss"] is not None else is_due:
        with setup.ema.averaged_weights(model):
            run.save_best(model, record)
    accelerator.wait_for_everyone()
    if loop.after_epoch is not None:
        loop.after_epoch(record)


def _during_validation(loop: Loop, done: int, rows: int) -> None:
    """Show progress, and stop on request; with several processes later, as the others wait for this one."""
    loop.display.show_progress(f"epoch {loop.at.epochs + 1}, validation", done, rows)
    if loop.setup.accelerator.num_processes == 1:
        loop.stopping.check()


def finish_run(loop: Loop) -> None:
    """Load the best weights, and with `precise_bn` recompute their batch norm statistics."""
    setup, run = loop.setup, loop.run
    fold_standardization(setup.model)
    record = run.load_best(setup.model)
    if setup.recipe.train.precise_bn and run.is_writer:
        phase, epoch = setup.phases[record["phase"]], loop.at.epochs + 1
        layers = recompute_bn_statistics(setup.model, loop.loaders, phase, setup.precision, epoch=epoch)
        metrics = validate(setup.model, loop.loaders.validation, setup.precision, run)
        run.save_best(setup.model, record | {"recalibrated": layers, **metrics})
    loop.stopping.check()


def _start_head(loop: Loop, state: TrainState) -> None:
    """Start a new head from a linear probe, before the first step."""
    with _saved_when_stopped(loop, state):
        start = start_head(loop.setup, loop.loaders, _progress(loop, "features of the head, {} rows"))
    if start is not None:
        loop.display.print_line(start.words)
        loop.run.record_decided({"head_start": start.record})


def _load_phase_data(loop: Loop, state: TrainState) -> PhaseData:
    """The remaining batches of a phase; frozen features are cached first, if that saves time."""
    at, phase, batches = loop.at, state.phase, loop.loaders.batches_per_epoch

    epochs_left = phase.num_epochs(batches) - at.epochs_in_phase
    left = RemainingWork(
        range(at.epochs + 1, at.epochs + 1 + epochs_left), (phase.num_steps(batches) - at.steps_in_phase) / batches
    )
    return build_phase_data(state, loop.loaders, left=left, shown=_progress(loop, "caching frozen features, {} rows"))


def _progress(loop: Loop, words: str) -> ProgressCallbacks:
    """Callbacks that show progress, `words` with the name of the rows, and stop the run where it is asked to."""

    def progress(name: str, done: int, rows: int) -> None:
        loop.display.show_progress(words.format(name), done, rows)
        loop.stopping.check()

    return ProgressCallbacks(loop.display.print_line, progress)


def _is_stalled(loop: Loop) -> bool:
    return should_stop_early(loop.run.records, loop.at.phase, loop.setup.recipe.train.early_stopping)


@contextmanager
def _saved_when_stopped(loop: Loop, state: TrainState) -> Iterator[None]:
    """A context that saves the run when it is asked to stop."""
    try:
        yield
    except StopRequested:
        loop.at.tally.reduce(loop.setup.accelerator)
        loop.run.save_last(state, loop.at)
        loop.setup.accelerator.wait_for_everyone()  # a launcher ends all processes as soon as one has ended
        raise
