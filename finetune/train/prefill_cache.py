"""Compute ahead what runs of a recipe will read: what is frozen in a phase and does not learn in one before it."""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.feature_cache.cache_folder import cache_root, make_room
from finetune.feature_cache.fill import fill_cache
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.model.begin_phase import begin_phase
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.lora import merge_lora
from finetune.recipe.schema import Phase, Recipe
from finetune.train.loaders import val_loader
from finetune.train.log.console import Display
from finetune.train.phase_data import cacheable_part, drawn_views, open_cached_sets
from finetune.train.setup.trial_step import TrialTrainer
from finetune.video.dataset import ClipDataset


@dataclass(frozen=True)
class PrefillResult:
    """What a phase will read: where that enters, the clips that were computed and kept, and bytes of all of them.

    Where nothing is kept for it, `why_not` says why.
    """

    phase: str
    entry: str = ""
    computed: int = 0
    clips: int = 0
    kept_bytes: int = 0
    failed: tuple[str, ...] = ()
    why_not: str = ""


def prefill_features(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> list[PrefillResult]:
    """Fill the cache for each phase of a recipe whose frozen part is as the run begins with it.

    The model is worth nothing afterwards. Raises FinetuneError for all that `fit` would refuse, and RunError where
    there is no room.
    """
    display, trial = Display(), TrialTrainer(model, manifest, recipe)
    validation = val_loader(manifest, trial.recipe, trial.loaders.facts)
    batches = len(trial.loaders.batches(trial.loaders.dataset(trial.phases[0])))
    found: list[PrefillResult] = []
    learnt: set[str] = set()
    epoch = 0
    with display, validation or nullcontext():
        for phase in trial.phases:
            epochs = range(epoch + 1, epoch + 1 + phase.num_epochs(batches))
            epoch = epochs[-1]
            said: list[str] = []
            learning, _ = begin_phase(model, phase)
            frozen = cacheable_part(model, trial.recipe, trial.precision, said.append)
            if frozen is None:
                found.append(PrefillResult(phase.words, why_not=" ".join(said) or "it has no frozen part"))
            elif learnt - set(learning) - set(HEAD_STAGES):
                found.append(PrefillResult(phase.words, why_not="what is frozen in it learns in a phase before"))
            else:
                tested = None if validation is None else validation.dataset
                found.append(_prefill_phase(trial, phase, frozen, tested, epochs, display))
            merge_lora(model)
            learnt |= set(learning)
    return found


def _prefill_phase(
    trial: TrialTrainer, phase: Phase, frozen: FrozenPart, tested: ClipDataset | None, epochs: range, display: Display
) -> PrefillResult:
    recipe = trial.recipe
    training = trial.loaders.dataset(phase, drawn_views(recipe, phase))
    with ExitStack() as held:
        sets = open_cached_sets(trial.model, frozen, (training, tested), recipe, epochs=epochs, held=held)
        lacking, record = sum(each.lacking() for each in sets), sets[0].store.record
        root, budget_gb = cache_root(recipe.train.cache_dir), recipe.train.cache_budget_gb
        if problem := make_room(root, lacking * record, budget_gb=budget_gb):
            raise RunError(f"{phase.words}: {problem}; raise it or make room, or take fewer augment.cached_views")
        for name, each in zip(("training", "validation"), sets, strict=False):
            fill_cache(
                trial.model,
                frozen,
                each,
                recipe.data,
                watch=partial(display.show_cache_progress, f"{phase.words}, {name} rows"),
            )
        clips = sum(each.keys_NV.size - each.lacking() for each in sets)
        computed = lacking - sum(each.lacking() for each in sets)
        failed = tuple(reason for each in sets for reason in each.failed.values())
        return PrefillResult(phase.words, frozen.cut.entry, computed, clips, clips * record, failed)
