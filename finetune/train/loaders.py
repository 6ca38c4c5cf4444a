"""The loaders of a run: training clips for each phase, and the split val."""

import torch

from finetune.errors import RecipeError
from finetune.evaluation import evaluation_loader
from finetune.manifest import Manifest
from finetune.recipe import Phase, Recipe
from finetune.video.batches import EpochBatches, balanced_draws
from finetune.video.dataset import ClipDataset
from finetune.video.facts import Facts
from finetune.video.loader import ClipLoader, worker_count


class TrainLoaders:
    """The training loader of a phase; phases with the same augmentation share one, and its processes."""

    def __init__(
        self, manifest: Manifest, recipe: Recipe, facts: Facts, *, batch_size: int, share: tuple[int, int]
    ) -> None:
        """`batch_size` clips of all processes together; `share`: which of how many processes this one is."""
        if batch_size % share[1]:
            raise RecipeError(f"batches of {batch_size} clips cannot be shared evenly by {share[1]} processes")
        self.manifest = manifest
        self.recipe = recipe
        self.facts = facts
        self.batch_size = batch_size // share[1] * recipe.train.accumulate
        self.share = share
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
                self.batch_size,
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


def val_loader(manifest: Manifest, recipe: Recipe, facts: Facts) -> ClipLoader | None:
    views, packed = recipe.evaluate.views, recipe.data.packed
    dataset = ClipDataset(manifest, "val", clip=recipe.clip, views=views, facts=facts, packed=packed)
    if not len(dataset):
        return None
    assert isinstance(recipe.train.batch_size, int)
    return evaluation_loader(dataset, recipe.data, batch_size=recipe.train.batch_size)
