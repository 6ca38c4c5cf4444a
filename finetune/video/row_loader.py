"""Loaders of the rows of a split in order, without augmentation."""

from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.recipe.schema import Data, Recipe
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.loader import ClipLoader, worker_count
from finetune.video.masks import mask_problems
from finetune.video.pack.read import manifest_facts


def evaluation_loader(
    manifest: Manifest, split: str, recipe: Recipe, *, size: int, views: int
) -> tuple[ClipLoader, dict[int, str]]:
    """A loader of a split for evaluation, and, by row of the manifest, why a file cannot be read.

    Raises DataError with all that is wrong with masks.
    """
    clip, packed = recipe.clip.model_copy(update={"size": size}), recipe.data.packed
    facts = manifest_facts(manifest, packed, side=size)
    if problems := mask_problems(manifest, facts):
        raise DataError("\n".join(problems))
    dataset = ClipDataset(manifest, split, clip=clip, views=views, facts=facts, packed=packed)
    return row_loader(dataset, recipe.data), facts.bad


def row_loader(dataset: ClipDataset, data: Data, *, batch_size: int = 1, least_workers: int = 0) -> ClipLoader:
    """A loader of all rows in order. Few rows get no worker processes, or `least_workers`: starting them takes time."""
    batches = EpochBatchSampler(len(dataset), batch_size, seed=0, shuffle=False)
    workers = min(worker_count(data.workers), max(least_workers, len(dataset) // 16))
    return ClipLoader(dataset, batches, workers=workers, time_limit=data.decode_timeout)
