"""The loaders of a run: training clips for each phase, and the split val."""

from collections.abc import Mapping
from functools import cached_property
from typing import Self

import numpy as np
import torch

from finetune.data.manifest import Manifest
from finetune.errors import RecipeError
from finetune.recipe.schema import Augment, Phase, Recipe, Schedule
from finetune.recipe.tasks import OutputSpec
from finetune.video.batch_sampler import EpochBatchSampler, class_balanced_draws, task_balanced_draws
from finetune.video.dataset import ClipDataset
from finetune.video.file_facts import FileFacts
from finetune.video.loader import ClipLoader, worker_count
from finetune.video.row_loader import row_loader


class TrainLoaders:
    """The training loader of a phase; phases with the same augmentation share one, and its processes."""

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        facts: FileFacts,
        *,
        batch_size: int,
        share: tuple[int, int],
        outputs: Mapping[str, OutputSpec] | None = None,
    ) -> None:
        """`batch_size` clips of all processes together; `share`: which of how many processes this one is.

        `outputs` are those of several tasks.
        """
        if batch_size % share[1]:
            raise RecipeError(f"batches of {batch_size} clips cannot be shared evenly by {share[1]} processes")
        self.manifest = manifest
        self.recipe = recipe
        self.facts = facts
        self.batch_size = batch_size // share[1] * recipe.train.accumulate
        self.share = share
        self.outputs = outputs
        self.drawn: tuple[str, int | None] | None = None
        self.current: tuple[ClipLoader, EpochBatchSampler] | None = None
        self.validation = val_loader(manifest, recipe, facts)

    @cached_property
    def batches_per_epoch(self) -> int:
        assert not isinstance(self.recipe.phases, Schedule)
        return len(self.batches(self.dataset(self.recipe.phases[0])))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self.validation is not None:
            self.validation.close()

    def of(self, phase: Phase, drawn_views: int | None = None) -> tuple[ClipLoader, EpochBatchSampler]:
        """With `drawn_views`, of so many fixed draws of each clip; else each epoch draws them anew."""
        drawn = phase.augment or self.recipe.augment.preset, drawn_views
        if self.current is None or drawn != self.drawn:
            dataset = self.dataset(phase, drawn_views)
            batches = self.batches(dataset)
            self.close()
            workers = min(worker_count(self.recipe.data.workers), len(batches))
            pin, limit = torch.cuda.is_available(), self.recipe.data.decode_timeout
            loader = ClipLoader(dataset, batches, workers=workers, time_limit=limit, pin=pin)
            self.drawn, self.current = drawn, (loader, batches)
        return self.current

    def dataset(self, phase: Phase, drawn_views: int | None = None) -> ClipDataset:
        return ClipDataset(
            self.manifest,
            "train",
            clip=self.recipe.clip,
            augment=phase_augment(self.recipe, phase),
            seed=self.recipe.seed,
            facts=self.facts,
            packed=self.recipe.data.packed,
            drawn_views=drawn_views,
            outputs=self.outputs,
        )

    def batches(self, dataset: ClipDataset) -> EpochBatchSampler:
        """As many, whatever a phase draws."""
        sampler, draws = self.recipe.train.sampler, None
        if sampler == "balanced":
            draws = class_balanced_draws(dataset.labels)
        elif sampler == "by_task":
            known = [labels.known[dataset.rows] for labels in self.manifest.tasks.values()]
            draws = task_balanced_draws(np.array(known or [np.ones(len(dataset), dtype=bool)]))
        return EpochBatchSampler(
            len(dataset),
            self.batch_size,
            seed=self.recipe.seed,
            draws=draws,
            share=self.share,
        )

    def close(self) -> None:
        """End the loading processes of training clips; a phase that asks again gets new ones."""
        if self.current is not None:
            self.current[0].close()
        self.current = None


def phase_augment(recipe: Recipe, phase: Phase) -> Augment:
    """What is drawn in a phase."""
    return recipe.augment.model_copy(update={"preset": phase.augment or recipe.augment.preset})


def val_loader(manifest: Manifest, recipe: Recipe, facts: FileFacts) -> ClipLoader | None:
    """The rows of the split val in order; None where there are none."""
    views, packed = recipe.evaluate.views, recipe.data.packed
    dataset = ClipDataset(manifest, "val", clip=recipe.clip, views=views, facts=facts, packed=packed)
    if not len(dataset):
        return None
    assert isinstance(recipe.train.batch_size, int)
    return row_loader(dataset, recipe.data, batch_size=recipe.train.batch_size)
