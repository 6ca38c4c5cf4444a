"""Precompute the frozen features that runs of a recipe read from the cache."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.feature_cache.cache_folder import cache_root, make_room
from finetune.feature_cache.fill import fill_cache
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.recipe.schema import Recipe
from finetune.train.head_start import start_head
from finetune.train.loaders import TrainLoaders
from finetune.train.log.console import Display
from finetune.train.phase import end_phase, start_phase
from finetune.train.phase_data import ProgressCallbacks, drawn_views, open_cached_sets
from finetune.train.setup.trial import build_trial
from finetune.train.step import TrainState


@dataclass(frozen=True)
class PrefillResult:
    """The cached features of a phase: the stage that they enter, clips computed now, and clips and bytes in total.

    `why_not` is the reason where nothing is cached for the phase.
    """

    phase: str
    entry: str = ""
    computed: int = 0
    clips: int = 0
    kept_bytes: int = 0
    failed: tuple[str, ...] = ()
    why_not: str = ""


def prefill_features(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> list[PrefillResult]:
    """Fill the cache for each phase of a recipe whose frozen part was not trained by an earlier phase.

    The model is not usable afterwards. Raises FinetuneError for everything that `fit` would refuse, and RunError where
    the disk or the cache budget has no room.
    """
    display, trial = Display(), build_trial(model, manifest, recipe)
    setup, loaders = trial.setup, trial.loaders
    results: list[PrefillResult] = []
    trained_before: set[str] = set()
    epoch = 0
    with display, loaders:
        for index, phase in enumerate(setup.phases):
            epochs = range(epoch + 1, epoch + 1 + phase.num_epochs(loaders.batches_per_epoch))
            epoch = epochs[-1]
            reasons: list[str] = []
            state = start_phase(setup, index, print_line=reasons.append)
            if index == 0:
                start_head(setup, loaders, _progress_of_head(display))  # caches what a run starts its head from
            if state.frozen is None:
                results.append(PrefillResult(phase.words, why_not=" ".join(reasons) or "it has no frozen part"))
            elif trained_before - set(state.trainable_stages) - set(HEAD_STAGES):
                results.append(PrefillResult(phase.words, why_not="an earlier phase trains its frozen part"))
            else:
                results.append(_prefill_phase(state, state.frozen, loaders, epochs, display))
            end_phase(setup)
            trained_before |= set(state.trainable_stages)
    return results


def _progress_of_head(display: Display) -> ProgressCallbacks:
    return ProgressCallbacks(
        progress=lambda name, done, rows: display.show_progress(f"features of the head, {name} rows", done, rows)
    )


def _prefill_phase(
    state: TrainState, frozen: FrozenPart, loaders: TrainLoaders, epochs: range, display: Display
) -> PrefillResult:
    phase, model, recipe = state.phase, state.setup.model, state.setup.recipe
    training = loaders.dataset(phase, drawn_views(recipe, phase))
    validation = None if loaders.validation is None else loaders.validation.dataset
    with ExitStack() as held:
        sets = open_cached_sets(model, frozen, (training, validation), recipe, epochs=epochs, held=held)
        missing, record = sum(clips.lacking() for clips in sets), sets[0].store.record
        root, budget_gb = cache_root(recipe.train.cache_dir), recipe.train.cache_budget_gb
        if problem := make_room(root, missing * record, budget_gb=budget_gb):
            raise RunError(f"{phase.words}: {problem}; raise it or make room, or set fewer augment.cached_views")
        for name, clips in zip(("training", "validation"), sets, strict=False):
            fill_cache(
                model,
                frozen,
                clips,
                recipe.data,
                watch=partial(display.show_progress, f"{phase.words}, {name} rows"),
            )
        cached = sum(clips.keys_NV.size - clips.lacking() for clips in sets)
        computed = missing - sum(clips.lacking() for clips in sets)
        failed = tuple(reason for clips in sets for reason in clips.failed.values())
        return PrefillResult(phase.words, frozen.cut.entry, computed, cached, cached * record, failed)
