"""Batches of a phase: clips, or what its frozen part gives for them, which is kept or else computed in each epoch.

Which of the two changes no result: both take the same draws of each clip and round the same numbers.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError, ModelError, RunError
from finetune.features.fill import Measured, fill, measured
from finetune.features.frozen import FrozenPart, depends_on, frozen_part
from finetune.features.kept import KeptClips, KeptLoader, kept_clips
from finetune.features.store import MISSING, cache_root, make_room
from finetune.infer import decided_once, from_all
from finetune.model.cut import FEATURES
from finetune.model.model import VideoClassifier
from finetune.recipe import Phase, Recipe
from finetune.train.loaders import TrainLoaders, augment_of
from finetune.train.stopping import Stopped
from finetune.video.augment import default_views
from finetune.video.batches import EpochBatches
from finetune.video.dataset import ClipDataset, view_of
from finetune.video.loader import ClipLoader, worker_count

READ_BYTES_PER_SECOND = 5e8
LEAST_SAVED_SECONDS = 5.0  # for which keeping is worth its room on the disk
FREE_GB = 2  # that are left to others
Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass
class PhaseData:
    """Loaders of a phase; where it has a frozen part they give clips or what that gives for them. Close it after."""

    loader: ClipLoader | KeptLoader
    batches: EpochBatches
    validation: ClipLoader | KeptLoader | None
    frozen: FrozenPart | None = None
    told: dict[str, Any] | None = None  # of the decision, for the record
    held: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self.held.close()


def frozen_of(model: VideoClassifier, recipe: Recipe, precision: str, say: Say) -> FrozenPart | None:
    """The frozen part of the phase that the model is in, where the recipe's is to be done once."""
    mode, augment = recipe.train.cache, recipe.augment
    if augment.cutmix or (mode == "off" and augment.views is None):
        return None
    try:
        kept_as = recipe.train.cache_dtype
        frozen = frozen_part(model, recipe.clip.num_frames, precision=precision, kept_as=kept_as)
    except ModelError as error:
        say(f"frozen stages are computed in each epoch: {error}")
        return None
    return None if frozen is not None and mode == "features" and frozen.cut.entry != FEATURES else frozen


def data_of(
    model: VideoClassifier,
    phase: Phase,
    loaders: TrainLoaders,
    validation: ClipLoader | None,
    *,
    frozen: FrozenPart | None,
    epochs: Sequence[int],
    say: Say,
    progress: Progress,
) -> PhaseData:
    """The loaders of a phase for the epochs that are left of it; what is to be kept is computed now.

    All processes of a run have to ask together. Raises what `progress` raises, and RunError for a disk that fails.
    """
    recipe = loaders.recipe
    if frozen is None:
        return PhaseData(*loaders.of(phase), validation)
    drawn = drawn_views(recipe, phase)
    if recipe.train.cache == "off" or not epochs:
        return PhaseData(*loaders.of(phase, drawn), validation, frozen)
    held = ExitStack()
    try:
        training, tested = loaders.dataset(phase, drawn), None if validation is None else validation.dataset
        sets = kept_sets(model, frozen, training, tested, recipe, epochs=epochs, held=held)
        decision = decided_once(lambda: _decide(model, frozen, sets, recipe, epochs=len(epochs)))
        if decision.keep:
            loaders.close()
            started = time.perf_counter()
            rows = _fill_together(model, frozen, sets, loaders, progress)
            decision = decision.after(rows, time.perf_counter() - started)
        say(decision.words)
    except BaseException:
        held.close()
        raise
    if not decision.keep:
        held.close()
        return PhaseData(*loaders.of(phase, drawn), validation, frozen, decision.told)
    batches = loaders.batches(sets[0].dataset)
    kept_validation = None if validation is None else KeptLoader(sets[1], validation.batches)
    return PhaseData(KeptLoader(sets[0], batches), batches, kept_validation, frozen, decision.told, held)


def drawn_views(recipe: Recipe, phase: Phase) -> int:
    """How many draws of each clip the phase takes in turn, where it has a frozen part."""
    return recipe.augment.views or default_views(augment_of(recipe, phase), recipe.clip)


def kept_sets(
    model: VideoClassifier,
    frozen: FrozenPart,
    training: ClipDataset,
    validation: ClipDataset | None,
    recipe: Recipe,
    *,
    epochs: Sequence[int],
    held: ExitStack,
) -> list[KeptClips]:
    """What is kept of the training rows' draws that some epochs take, and of the validation rows' views."""
    root, basis = cache_root(recipe.train.cache_dir), depends_on(model, frozen)
    assert training.drawn_views is not None
    views = sorted({view_of(epoch, training.drawn_views) for epoch in epochs})
    found = [held.enter_context(kept_clips(root, basis, frozen, training, views))]
    if validation is not None:
        found.append(held.enter_context(kept_clips(root, basis, frozen, validation)))
    return found


@dataclass(frozen=True)
class Decision:
    """Whether what a frozen part gives is kept in a phase, why, and the figures that decided it."""

    keep: bool
    told: dict[str, Any]
    words: str

    def after(self, rows: int, seconds: float) -> "Decision":
        """With what it took to compute what was missing."""
        if not rows:
            words = f"{self.words}; all of it was there"
        else:
            words = f"{self.words}; {rows} rows computed in {seconds:.0f} s"
        return Decision(self.keep, self.told | {"rows": rows, "seconds": round(seconds, 2), "words": words}, words)


def _decide(
    model: VideoClassifier, frozen: FrozenPart, sets: Sequence[KeptClips], recipe: Recipe, *, epochs: int
) -> Decision:
    """By a forecast from one row: the bytes that would be kept, seconds to compute them, seconds that they save."""
    where = "features of the frozen backbone" if frozen.cut.entry == FEATURES else f"what enters {frozen.cut.entry}"
    bytes_needed = sum(each.lacking() for each in sets) * sets[0].store.record
    told: dict[str, Any] = {"entry": frozen.cut.entry, "views": sets[0].dataset.drawn_views, "kept_as": frozen.kept_as}
    told |= {"gigabytes": round(sum(each.keys_NV.size for each in sets) * sets[0].store.record / 1e9, 4)}
    figures = f"{told['views']} views, {told['gigabytes']:.2g} GB as {frozen.kept_as}"
    if not bytes_needed:
        return _decision(True, told, f"{where}: kept ({figures})")
    forecast = ""
    if recipe.train.cache == "auto":
        found = next((found for each in sets if (found := measured(model, frozen, each)) is not None), None)
        if found is None:
            return _decision(False, told, f"{where}: computed in each epoch, as no row could be read")
        to_fill, saved = forecast_seconds(found, sets, epochs=epochs, workers=worker_count(recipe.data.workers))
        told |= {"forecast_seconds_to_fill": round(to_fill, 1), "forecast_seconds_saved": round(saved, 1)}
        forecast = f", about {to_fill:.0f} s to compute, {max(0.0, saved):.0f} s saved"
        if saved < LEAST_SAVED_SECONDS:
            return _decision(False, told, f"{where}: computed in each epoch, which is faster ({figures}{forecast})")
    if problem := _no_room(cache_root(recipe.train.cache_dir), bytes_needed, recipe.train.cache_budget_gb):
        return _decision(False, told, f"{where}: computed in each epoch, as {problem} ({figures}{forecast})")
    return _decision(True, told, f"{where}: kept ({figures}{forecast})")


def _decision(keep: bool, told: dict[str, Any], words: str) -> Decision:
    return Decision(keep, told | {"kept": keep, "words": words}, words)


def forecast_seconds(found: Measured, sets: Sequence[KeptClips], *, epochs: int, workers: int) -> tuple[float, float]:
    """Seconds to compute what is missing, and seconds that keeping it saves in so many epochs, those taken off."""

    def together(decode: float, compute: float) -> float:
        return max(decode / workers, compute) if workers else decode + compute

    to_fill = in_an_epoch = to_read = 0.0
    for each in sets:
        lacking = (each.places_NV["shard"] == MISSING).sum(1)
        views = each.keys_NV.shape[1]
        decode_row = found.decode_clip + (found.decode_row - found.decode_clip) * (views - 1) / max(
            1, len(sets[0].views) - 1
        )
        to_fill += together((lacking > 0).sum() * decode_row, lacking.sum() * found.compute_clip)
        clips = len(lacking) * (1 if each.dataset.drawn_views is not None else views)
        in_an_epoch += together(clips * found.decode_clip, clips * found.compute_clip)
        to_read += clips * each.store.record / READ_BYTES_PER_SECOND
    return float(to_fill), float(epochs * (in_an_epoch - to_read) - to_fill)


def _no_room(root: Path, needed_bytes: int, budget_gb: float) -> str | None:
    root.mkdir(parents=True, exist_ok=True)
    if not make_room(root, needed_bytes, budget_bytes=budget_gb * 1e9):
        return f"train.cache_budget_gb is {budget_gb:g}, and {needed_bytes / 1e9:.2g} more are needed"
    free = shutil.disk_usage(root).free - FREE_GB * 1e9
    return None if needed_bytes <= free else f"the disk of {root} has {max(0.0, free) / 1e9:.2g} GB to spare"


def _fill_together(
    model: VideoClassifier, frozen: FrozenPart, sets: Sequence[KeptClips], loaders: TrainLoaders, progress: Progress
) -> int:
    """Each process its share of the rows; how many rows that were. What stops one stops all, once each is done."""
    data, share = loaders.recipe.data, loaders.share
    ended: BaseException | None = None
    rows = sum(len(each.missing()) for each in sets)
    try:
        for name, each in zip(("training", "validation"), sets, strict=False):
            fill(model, frozen, each, data, share=share, watch=partial(progress, name))
    except (Stopped, FinetuneError) as error:
        if share[1] == 1:
            raise
        ended = error
    if share[1] > 1:
        _raise_together(ended)
        for each in sets:
            each.failed.update(from_all([*each.failed.items()]))
            each.refresh()
            fill(model, frozen, each, data)  # what the others kept on disks that are not seen from here
    return rows


def _raise_together(ended: BaseException | None) -> None:
    every = from_all([None if ended is None else ("" if isinstance(ended, Stopped) else str(ended))])
    problems = [each for each in every if each is not None]
    if any(problems):
        raise RunError("\n".join(dict.fromkeys(filter(None, problems))))
    if problems:
        raise Stopped
