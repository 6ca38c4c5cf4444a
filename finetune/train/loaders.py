"""The loaders of a run: training clips for each phase, and the split val."""

from collections.abc import Mapping
from functools import cached_property
from typing import Self

import numpy as np
import torch

from finetune.data.manifest import Manifest
from finetune.errors import RecipeError
from finetune.recipe.contrastive import CONTRASTIVE_LOSS
from finetune.recipe.own_parts import is_own, part_name, require_object
from finetune.recipe.schema import Augment, Phase, Recipe, Schedule
from finetune.recipe.tasks import OutputSpec
from finetune.video.batch_sampler import EpochBatchSampler, class_balanced_draws, draws_by_weight, task_balanced_draws
from finetune.video.dataset import ClipDataset
from finetune.video.file_facts import FileFacts
from finetune.video.loader import ClipLoader, worker_count
from finetune.video.row_loader import row_loader


class TrainLoaders:
    """The loaders of training clips for each phase, and of the split val.

    Phases with the same augmentation share a loader and its processes.
    """

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
        """`batch_size`: clips of all processes together; `share`: rank of this process, number of processes.

        `outputs`: those of a multi-task model.
        """
        if batch_size % share[1]:
            raise RecipeError(f"batches of {batch_size} clips cannot be shared evenly by {share[1]} processes")
        self.manifest = manifest
        self.recipe = recipe
        self.facts = facts
        self.batch_size = batch_size // share[1] * recipe.train.accumulate
        self.share = share
        self.outputs = outputs
        self.drawn: tuple[Augment, int | None] | None = None
        self.current: tuple[ClipLoader, EpochBatchSampler] | None = None

    @cached_property
    def validation(self) -> ClipLoader | None:
        """The rows of the split val in order; None where there are none."""
        views, packed = self.recipe.evaluate.views, self.recipe.data.packed
        dataset = ClipDataset(self.manifest, "val", clip=self.recipe.clip, views=views, facts=self.facts, packed=packed)
        if not len(dataset):
            return None
        assert isinstance(self.recipe.train.batch_size, int)
        return row_loader(dataset, self.recipe.data, batch_size=self.recipe.train.batch_size)

    @cached_property
    def batches_per_epoch(self) -> int:
        assert not isinstance(self.recipe.phases, Schedule)
        return len(self.batches(self.dataset(self.recipe.phases[0])))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        validation = vars(self).get("validation")  # only if it was used
        if validation is not None:
            validation.close()

    def of(self, phase: Phase, drawn_views: int | None = None) -> tuple[ClipLoader, EpochBatchSampler]:
        """Clips of a phase, with new random draws in each epoch, or with `drawn_views` fixed draws of each, in turn."""
        drawn = phase_augment(self.recipe, phase), drawn_views
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
            views=1,
            seed=self.recipe.seed,
            facts=self.facts,
            packed=self.recipe.data.packed,
            drawn_views=drawn_views,
            outputs=self.outputs,
        )

    def batches(self, dataset: ClipDataset) -> EpochBatchSampler:
        """The batches of an epoch; each phase has the same number of them."""
        sampler, draws = self.recipe.train.sampler, None
        if is_own(sampler):
            others = np.setdiff1d(np.arange(len(self.manifest)), dataset.rows)
            weights = require_object(sampler, "train.sampler")(self.manifest.without(others))
            draws = draws_by_weight(weights, rows=len(dataset), name=part_name(sampler))
        elif sampler == "balanced":
            draws = class_balanced_draws(dataset.labels)
        elif sampler == "by_task":
            known = [labels.known[dataset.rows] for labels in self.manifest.tasks.values()]
            draws = task_balanced_draws(np.array(known or [np.ones(len(dataset), dtype=bool)]))
        batches = EpochBatchSampler(
            len(dataset),
            self.batch_size,
            seed=self.recipe.seed,
            draws=draws,
            share=self.share,
        )
        if self.recipe.train.loss == CONTRASTIVE_LOSS:
            batches.pair(dataset.labels)
        return batches

    def close(self) -> None:
        """End the loading processes of training clips; the next call of `of` starts new ones."""
        if self.current is not None:
            self.current[0].close()
        self.current = None


def phase_augment(recipe: Recipe, phase: Phase) -> Augment:
    """The augmentation of the recipe, with the preset of a phase, which also replaces an own transform."""
    if phase.augment is None:
        return recipe.augment
    return recipe.augment.model_copy(update={"preset": phase.augment, "transform": None})
