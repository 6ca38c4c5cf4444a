"""The batches of a phase: clips, or the activations of its frozen part, which are cached on disk.

Caching changes no result: without it, the same activations are computed, and rounded alike, in each epoch.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from finetune.errors import FinetuneError, ModelError, RunError
from finetune.feature_cache.cache_folder import cache_root
from finetune.feature_cache.cached_clips import CachedClipLoader, CachedClips, open_cached_clips
from finetune.feature_cache.fill import fill_cache
from finetune.feature_cache.frozen_part import FrozenPart, cache_key, frozen_part
from finetune.model.classifier import VideoClassifier
from finetune.model.frozen_prefix import FEATURES
from finetune.recipe.own_parts import is_own
from finetune.recipe.schema import Phase, Recipe
from finetune.runtime.processes import gather_from_all, on_main_then_broadcast
from finetune.train.cache_decision import decide_caching
from finetune.train.loaders import TrainLoaders, phase_augment
from finetune.train.state.signals import StopRequested
from finetune.train.step import TrainState
from finetune.video.augment import default_cached_views
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset, fixed_draw_of_epoch
from finetune.video.loader import ClipLoader

PrintLine = Callable[[str], None]
Done = TypeVar("Done")


class ProgressCallbacks(NamedTuple):
    """Callbacks for messages and for progress (name, rows done, rows in all); the latter may raise StopRequested."""

    print_line: PrintLine = lambda text: None
    progress: Callable[[str, int, int], None] = lambda name, done, rows: None


SILENT = ProgressCallbacks()


class RemainingWork(NamedTuple):
    """What remains of a phase: its epochs, counted from 1 over the run, and the passes over the clips, a fraction."""

    epochs: range
    passes: float


@dataclass
class PhaseData:
    """Loaders of a phase: of clips, or of cached features. Close it after use."""

    loader: ClipLoader | CachedClipLoader
    batches: EpochBatchSampler
    validation: ClipLoader | CachedClipLoader | None
    cache_record: dict[str, Any] | None = None  # of the decision, for the record
    held: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self.held.close()


def cacheable_part(model: VideoClassifier, recipe: Recipe, precision: str, print_line: PrintLine) -> FrozenPart | None:
    """The part of the model that is frozen now; None where the recipe does not allow caching it."""
    mode, augment = recipe.train.cache, recipe.augment
    if is_own(model.settings.backbone) or augment.transform is not None:
        return None  # code that has changed since could not be told from the code that filled the cache
    if augment.cutmix or (mode == "off" and augment.cached_views is None):
        return None
    try:
        storage_dtype = recipe.train.cache_dtype
        frozen = frozen_part(model, recipe.clip.num_frames, precision=precision, storage_dtype=storage_dtype)
    except ModelError as error:
        print_line(f"Not cached: {error}")
        return None
    return None if frozen is not None and mode == "features" and frozen.cut.entry != FEATURES else frozen


def build_phase_data(
    state: TrainState, loaders: TrainLoaders, *, left: RemainingWork, shown: ProgressCallbacks
) -> PhaseData:
    """The loaders for the rest of a phase. If features are to be cached, they are computed here.

    All processes of a run have to call it together. Exceptions of `shown.progress` are passed on.
    """
    model, recipe, frozen, validation = state.setup.model, loaders.recipe, state.frozen, loaders.validation
    cache_record = None
    if frozen is not None and recipe.train.cache != "off" and left.epochs:
        training = loaders.dataset(state.phase, drawn_views(recipe, state.phase))
        tested = None if validation is None else validation.dataset
        with ExitStack() as held:
            sets, cache_record = _fill_if_worthwhile(
                model, frozen, (training, tested), loaders, left=left, shown=shown, held=held
            )
            if sets:
                batches = loaders.batches(training)
                cached_validation = None if validation is None else CachedClipLoader(sets[1], validation.batches)
                return PhaseData(
                    CachedClipLoader(sets[0], batches), batches, cached_validation, cache_record, held.pop_all()
                )
    return PhaseData(*phase_clips(state, loaders), validation, cache_record)


def phase_clips(state: TrainState, loaders: TrainLoaders) -> tuple[ClipLoader, EpochBatchSampler]:
    """The clips of a phase: new random draws in each epoch, or, with a frozen part, fixed draws in turn."""
    drawn = None if state.frozen is None else drawn_views(loaders.recipe, state.phase)
    return loaders.of(state.phase, drawn)


def drawn_views(recipe: Recipe, phase: Phase) -> int:
    """The number of fixed random draws of each clip that a phase with a frozen part uses in turn."""
    return recipe.augment.cached_views or default_cached_views(phase_augment(recipe, phase), recipe.clip)


def open_cached_sets(
    model: VideoClassifier,
    frozen: FrozenPart,
    datasets: tuple[ClipDataset, ClipDataset | None],
    recipe: Recipe,
    *,
    epochs: Sequence[int],
    held: ExitStack,
) -> list[CachedClips]:
    """The caches of the training draws that these epochs use, and of the validation views.

    Raises RunError where the cache folder cannot be used.
    """
    root, basis = cache_root(recipe.train.cache_dir), cache_key(model, frozen)
    training, validation = datasets
    assert training.drawn_views is not None
    views = sorted({fixed_draw_of_epoch(epoch, training.drawn_views) for epoch in epochs})
    sets = [held.enter_context(open_cached_clips(root, basis, frozen, training, views))]
    if validation is not None:
        sets.append(held.enter_context(open_cached_clips(root, basis, frozen, validation)))
    return sets


def _fill_if_worthwhile(
    model: VideoClassifier,
    frozen: FrozenPart,
    datasets: tuple[ClipDataset, ClipDataset | None],
    loaders: TrainLoaders,
    *,
    left: RemainingWork,
    shown: ProgressCallbacks,
    held: ExitStack,
) -> tuple[list[CachedClips], dict[str, Any]]:
    """The filled caches, empty where caching saves no time or fails; and the record of the decision."""
    recipe = loaders.recipe
    try:
        sets = run_on_all_ranks(
            lambda: open_cached_sets(model, frozen, datasets, recipe, epochs=left.epochs, held=held)
        )
        decision = on_main_then_broadcast(lambda: decide_caching(model, frozen, sets, recipe, passes=left.passes))
        shown.print_line(decision.words)
        if not decision.keep:
            return [], decision.cache_record
        loaders.close()
        started = time.perf_counter()
        rows = fill_all(model, frozen, sets, loaders, shown)
    except RunError as error:
        words = f"Not cached: {error}"
        shown.print_line(words)
        return [], {"entry": frozen.cut.entry, "kept": False, "words": words}
    seconds = time.perf_counter() - started
    if rows:
        shown.print_line(f"Cached features of {rows} rows in {seconds:.0f} s")
    words = decision.words + (
        f"; {rows} rows computed in {seconds:.0f} s" if rows else "; all were in the cache already"
    )
    return sets, decision.cache_record | {"rows": rows, "seconds": round(seconds, 2), "words": words}


def fill_all(
    model: VideoClassifier,
    frozen: FrozenPart,
    sets: Sequence[CachedClips],
    loaders: TrainLoaders,
    shown: ProgressCallbacks,
) -> int:
    """Compute missing features, each process for its share of the rows; the number of rows of all processes."""
    data, share = loaders.recipe.data, loaders.share
    rows = sum(len(clips.missing()) for clips in sets)

    def compute(share: tuple[int, int]) -> None:
        for name, clips in zip(("training", "validation"), sets, strict=False):
            fill_cache(model, frozen, clips, data, share=share, watch=partial(shown.progress, name))

    run_on_all_ranks(lambda: compute(share))
    if share[1] > 1:
        for clips in sets:
            clips.failed.update(gather_from_all([*clips.failed.items()]))
            clips.refresh()
        run_on_all_ranks(lambda: compute((0, 1)))  # rows that other processes wrote to a disk this one cannot read
    return rows


def run_on_all_ranks(work: Callable[[], Done]) -> Done:
    """The result of this process's work; if any process fails or is stopped, all raise that after all have ended."""
    results: list[Done] = []
    failure = None  # "" where it was stopped
    try:
        results.append(work())
    except StopRequested:
        failure = ""
    except FinetuneError as error:
        failure = str(error)
    failures = [text for text in gather_from_all([failure]) if text is not None]
    if any(failures):
        raise RunError("\n".join(dict.fromkeys(filter(None, failures))))
    if failures:
        raise StopRequested
    return results[0]
