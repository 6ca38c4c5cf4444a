"""Which items make up each batch of an epoch: a function of (seed, epoch) alone, divided between processes."""

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from finetune.errors import RecipeError

MAX_DRAWS = 5  # of one row in an epoch, so that a class of three clips does not fill it


class EpochBatchSampler:
    """Batches of (epoch, position), shuffled by (seed, epoch); call `begin` before each epoch.

    With `draws`, float (length,), each position is drawn that many times on average, rounded up or down in each epoch.
    `share` is (rank, world): of every global batch of `batch_size` × `world` items each process takes its part, so that
    all have equally many batches. The last global batch may have fewer items than processes; then some parts are empty.
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
        self.paired_labels: np.ndarray | None = None
        self.rank, self.world = share
        self.epoch, self.first = 0, 0

    def pair(self, labels: np.ndarray) -> None:
        """From now on items of a class follow each other in twos or threes; `labels` are class numbers (length,)."""
        self.paired_labels = labels

    def begin(self, epoch: int, *, first: int = 0) -> None:
        """The next iteration gives the batches of this epoch, from batch `first` on."""
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
            if self.paired_labels is not None:
                order = order[pair_by_class(self.paired_labels[order], generator)]
        step = self.batch_size * self.world
        for start in range(self.first * step, self.length, step):
            share = order[start : start + step][self.rank :: self.world]
            yield [(self.epoch, int(position)) for position in share]


def pair_by_class(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An order (N,) in which items of a class follow each other in twos or threes, and these in random order.

    `labels` are class numbers (N,). Inside a class the order stays.
    """
    groups: list[np.ndarray] = []
    for code in np.unique(labels):
        of_class = np.flatnonzero(labels == code)
        groups += np.array_split(of_class, max(1, len(of_class) // 2))
    return np.concatenate([groups[number] for number in generator.permutation(len(groups))])


def class_balanced_draws(labels: np.ndarray) -> np.ndarray:
    """How often to draw each of N rows, float (N,), so that an epoch of N draws has equally many of each class.

    `labels` are class numbers (N,). A row of a class of n rows, of K classes, is drawn N / (K n) times, at most
    MAX_DRAWS; what such classes leave is divided equally between the others. Sums to N.
    """
    counts = np.bincount(labels)
    draws, left = np.zeros(len(counts)), float(len(labels))
    smallest_first = [code for code in np.argsort(counts, kind="stable") if counts[code]]
    for place, code in enumerate(smallest_first):
        class_draws = left / (len(smallest_first) - place)
        draws[code] = min(class_draws / counts[code], MAX_DRAWS)
        left -= draws[code] * counts[code]
    return draws[labels]


def draws_by_weight(weights: Any, *, rows: int, name: str) -> np.ndarray:
    """How often to draw each of N rows, float (N,), in proportion to weights (N,); sums to N. `name` is for messages.

    Raises RecipeError for weights that are not N finite numbers of at least 0, with a sum above 0.
    """
    weights_N = np.asarray(weights, dtype=np.float64)
    if weights_N.shape != (rows,) or not np.isfinite(weights_N).all() or (weights_N < 0).any() or not weights_N.any():
        raise RecipeError(
            f"train.sampler: {name} has to give a weight of 0 or more for each of {rows} rows; it gives "
            f"{weights_N.dtype} {weights_N.shape} from {weights_N.min(initial=0):g} to {weights_N.max(initial=0):g}"
        )
    return weights_N * rows / weights_N.sum()


def task_balanced_draws(known_MN: np.ndarray) -> np.ndarray:
    """How often to draw each of N rows, float (N,), so that an epoch of N draws has equally many labels of all M tasks.

    `known_MN` is bool: whether a row has a label of a task. Each task has N / M draws, divided equally between its
    rows, and a row gets the sum over its tasks. A row is drawn at most MAX_DRAWS times and the others take the rest,
    unless so few rows have labels that they must be drawn more often. Sums to N.
    """
    counts_M = known_MN.sum(1)
    is_labelled = counts_M > 0
    draws = (known_MN[is_labelled] / counts_M[is_labelled, None]).sum(0)
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
    """Sorted positions, round(sum of draws) of them: each `draws[position]` times, rounded up or down at random.

    Systematic sampling: one random start, equal steps (Madow 1949); less variance than drawing with replacement.
    """
    total = round(float(draws.sum()))
    marks = (np.arange(total) + generator.random()) * (draws.sum() / total)
    return np.minimum(np.searchsorted(np.cumsum(draws), marks, side="right"), len(draws) - 1)
