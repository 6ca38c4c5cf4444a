"""Compute ahead what runs of a recipe will read: what is frozen in a phase and does not learn in one before it."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from finetune.errors import RunError
from finetune.features.fill import fill
from finetune.features.store import cache_root, make_room
from finetune.manifest import Manifest
from finetune.model.lora import merge_lora
from finetune.model.model import VideoClassifier
from finetune.model.phase import begin_phase
from finetune.model.stages import NEW
from finetune.recipe import Recipe
from finetune.train.display import Display
from finetune.train.frozen import drawn_views, frozen_of, kept_sets
from finetune.train.loaders import val_loader
from finetune.train.trial import Trial


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
    recipe, loaders = trial.recipe, trial.loaders
    validation = val_loader(manifest, recipe, loaders.facts)
    batches = len(loaders.batches(loaders.dataset(trial.phases[0])))
    found: list[Ahead] = []
    learnt: set[str] = set()
    epoch = 0
    with display, ExitStack() as held:
        if validation is not None:
            held.enter_context(validation)
        for phase in trial.phases:
            first, epoch = epoch + 1, epoch + phase.epochs_of(batches)
            said: list[str] = []
            learning, _ = begin_phase(model, phase)
            frozen = frozen_of(model, recipe, trial.precision, said.append)
            if frozen is None:
                found.append(Ahead(phase.words, why_not=" ".join(said) or "it has no frozen part"))
            elif learnt - set(learning) - set(NEW):
                found.append(Ahead(phase.words, why_not="what is frozen in it learns in a phase before"))
            else:
                training = loaders.dataset(phase, drawn_views(recipe, phase))
                tested = None if validation is None else validation.dataset
                epochs = range(first, epoch + 1)
                sets = kept_sets(model, frozen, training, tested, recipe, epochs=epochs, held=held)
                lacking = sum(each.lacking() for each in sets)
                needed = lacking * sets[0].store.record
                if not make_room(
                    cache_root(recipe.train.cache_dir), needed, budget_bytes=recipe.train.cache_budget_gb * 1e9
                ):
                    raise RunError(
                        f"train.cache_budget_gb is {recipe.train.cache_budget_gb:g}, and {needed / 1e9:.2g} more are "
                        f"needed for {phase.words}; raise it, or take fewer augment.views"
                    )
                for name, each in zip(("training", "validation"), sets, strict=False):
                    watch = partial(display.filling, f"{phase.words}, {name} rows")
                    fill(model, frozen, each, recipe.data, watch=watch)
                clips = sum(each.keys_NV.size for each in sets)
                failed = tuple(reason for each in sets for reason in each.failed.values())
                found.append(Ahead(phase.words, frozen.cut.entry, lacking, clips, clips * sets[0].store.record, failed))
            merge_lora(model)
            learnt |= set(learning)
    return found
