"""Compute ahead what runs of a recipe will read: what is frozen in a phase and does not learn in one before it."""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.feature_cache.cache_folder import cache_root, no_room
from finetune.feature_cache.fill import fill
from finetune.feature_cache.frozen_part import FrozenPart
from finetune.model.begin_phase import begin_phase
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import NEW
from finetune.model.lora import merge_lora
from finetune.recipe.schema import Phase, Recipe
from finetune.train.loaders import val_loader
from finetune.train.log.console import Display
from finetune.train.phase_data import drawn_views, frozen_of, kept_sets
from finetune.train.setup.trial_step import Trial
from finetune.video.dataset import ClipDataset


@dataclass(frozen=True)
class Ahead:
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


def fill_ahead(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> list[Ahead]:
    """Fill the cache for each phase of a recipe whose frozen part is as the run begins with it.

    The model is worth nothing afterwards. Raises FinetuneError for all that `fit` would refuse, and RunError where
    there is no room.
    """
    display, trial = Display(), Trial(model, manifest, recipe)
    validation = val_loader(manifest, trial.recipe, trial.loaders.facts)
    batches = len(trial.loaders.batches(trial.loaders.dataset(trial.phases[0])))
    found: list[Ahead] = []
    learnt: set[str] = set()
    epoch = 0
    with display, validation or nullcontext():
        for phase in trial.phases:
            epochs = range(epoch + 1, epoch + 1 + phase.epochs_of(batches))
            epoch = epochs[-1]
            said: list[str] = []
            learning, _ = begin_phase(model, phase)
            frozen = frozen_of(model, trial.recipe, trial.precision, said.append)
            if frozen is None:
                found.append(Ahead(phase.words, why_not=" ".join(said) or "it has no frozen part"))
            elif learnt - set(learning) - set(NEW):
                found.append(Ahead(phase.words, why_not="what is frozen in it learns in a phase before"))
            else:
                tested = None if validation is None else validation.dataset
                found.append(_filled(trial, phase, frozen, tested, epochs, display))
            merge_lora(model)
            learnt |= set(learning)
    return found


def _filled(
    trial: Trial, phase: Phase, frozen: FrozenPart, tested: ClipDataset | None, epochs: range, display: Display
) -> Ahead:
    recipe = trial.recipe
    training = trial.loaders.dataset(phase, drawn_views(recipe, phase))
    with ExitStack() as held:
        sets = kept_sets(trial.model, frozen, (training, tested), recipe, epochs=epochs, held=held)
        lacking, record = sum(each.lacking() for each in sets), sets[0].store.record
        root, budget_gb = cache_root(recipe.train.cache_dir), recipe.train.cache_budget_gb
        if problem := no_room(root, lacking * record, budget_gb=budget_gb):
            raise RunError(f"{phase.words}: {problem}; raise it or make room, or take fewer augment.views")
        for name, each in zip(("training", "validation"), sets, strict=False):
            fill(trial.model, frozen, each, recipe.data, watch=partial(display.filling, f"{phase.words}, {name} rows"))
        clips = sum(each.keys_NV.size - each.lacking() for each in sets)
        computed = lacking - sum(each.lacking() for each in sets)
        failed = tuple(reason for each in sets for reason in each.failed.values())
        return Ahead(phase.words, frozen.cut.entry, computed, clips, clips * record, failed)
