"""Which items make up each batch of an epoch: a function of (seed, epoch) alone, shared out between processes."""

from collections.abc import Iterator
from math import ceil

import numpy as np

MAX_DRAWS = 5  # of one row in an epoch: a class of three clips is not shown for hours


class EpochBatchSampler:
    """Batches of (epoch, position), shuffled by (seed, epoch); `begin` an epoch before each pass.

    With `draws` (length,), an epoch draws each position that many times on average, and to within one in every
    epoch. Of every global batch of `batch_size` × `world` items a process takes its `rank`-th share, so that all have
    as many batches. Where a last global batch has fewer items than there are processes, the shares of some are empty.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        draws: np.ndarray | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.draws = draws
        self.rank, self.world = share
        self.epoch, self.first = 0, 0

    def begin(self, epoch: int, *, first: int = 0) -> None:
        """The next passes are those of this epoch, from its batch `first` on."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return ceil(self.length / (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.length)
        if self.shuffle:
            generator = np.random.default_rng([self.seed, self.epoch])
            if self.draws is not None:
                order = systematic_sample(self.draws, generator)
            order = generator.permutation(order)
        step = self.batch_size * self.world
        for start in range(self.first * step, self.length, step):
            share = order[start : start + step][self.rank :: self.world]
            yield [(self.epoch, int(position)) for position in share]


def class_balanced_draws(labels: np.ndarray) -> np.ndarray:
    """How often an epoch of N draws should show each of N rows for all classes to be shown equally often.

    A row of a class of n in K classes: N / (K n). Where that is more than MOST_DRAWS it is MOST_DRAWS, and what is
    left is shared equally by the other classes. Sums to N.
    """
    counts = np.bincount(labels)
    draws, left = np.zeros(len(counts)), float(len(labels))
    smallest_first = [code for code in np.argsort(counts, kind="stable") if counts[code]]
    for place, code in enumerate(smallest_first):
        share = left / (len(smallest_first) - place)
        draws[code] = min(share / counts[code], MAX_DRAWS)
        left -= draws[code] * counts[code]
    return draws[labels]


def task_balanced_draws(known_MN: np.ndarray) -> np.ndarray:
    """How often an epoch of N draws should show each of N rows for the labels of all M tasks to be shown equally often.

    A row is drawn for each task whose label it has, N / M times in all for each task: where tasks have rows of their
    own that is equal, and where all share all rows each is drawn once. A row is drawn at most MOST_DRAWS times, and
    the others then take what is left; more often only where so few rows have labels. Sums to N.
    """
    counts_M = known_MN.sum(1)
    there = counts_M > 0
    draws = (known_MN[there] / counts_M[there, None]).sum(0)
    count = known_MN.shape[1]
    draws *= count / draws.sum()
    for _ in range(count):
        over = draws > MAX_DRAWS
        rest = (draws > 0) & ~over & (draws < MAX_DRAWS)
        if not over.any() or not rest.any():
            break
        spare = (draws[over] - MAX_DRAWS).sum()
        draws[over] = MAX_DRAWS
        draws[rest] *= 1 + spare / draws[rest].sum()
    return draws


def systematic_sample(draws: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many positions as `draws` sum to, each drawn its number of times rounded up or down by chance, in order.

    Systematic sampling: one random start, equal steps (Madow 1949); less noise than drawing with replacement.
    """
    total = round(float(draws.sum()))
    marks = (np.arange(total) + generator.random()) * (draws.sum() / total)
    return np.minimum(np.searchsorted(np.cumsum(draws), marks, side="right"), len(draws) - 1)
