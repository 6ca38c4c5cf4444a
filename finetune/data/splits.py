"""Assign rows to train, val and test: whole groups and files, every class in train, fractions as close as possible.

Units (groups, or files without groups) are visited in the order of a hash of their name and the seed. So the split of a
unit depends on its name and on class counts, not on the order of rows, and adding one clip moves few others (figures in
docs/own-data.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations, product
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from finetune.data.labels import Labels
from finetune.errors import DataError
from finetune.text import count

SPLITS = ("train", "val", "test")
MIN_SPLIT_UNITS = 8  # with at most this many units, all assignments are tried
MAX_RETRY_UNITS, ATTEMPTS = 40, 10  # with at most 40 units, 10 orders are tried; another one must be much better
MAX_SWAP_UNITS = 1000  # with more units, single moves without swaps are good enough
MOVE_PENALTY = 0.005  # a move, once all splits are filled, must lower the cost by this much per row


def file_ids(paths: Sequence[Path]) -> np.ndarray:
    """An ID (N,) for each path; paths to the same file, by links, hard links, `..` or spelling, have the same ID."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(_file_identity(path), len(numbers)) for path in paths], dtype=np.int64)


def _file_identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:  # the file need not exist if frames come from a pack
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def split_units(paths: Sequence[Path], groups: Sequence[str] | None, *, root: Path) -> np.ndarray:
    """For each row (N,) the name of its unit, which is never divided: its group, or its file's path relative to `root`.

    Groups that share a file are one unit. A unit's name is the alphabetically first of its names.
    """
    files = file_ids(paths)
    texts = groups or [""] * len(paths)
    names = [group or _name_from(path, root) for group, path in zip(texts, paths, strict=True)]
    numbers = files
    if groups is not None:
        codes = np.unique(np.array(names), return_inverse=True)[1] + len(files)
        size = len(files) + len(names)
        joined = csr_matrix((np.ones(len(files)), (files, codes)), shape=(size, size))
        numbers = connected_components(joined, directed=False)[1][files]
    first: dict[int, str] = {}
    for number, name in zip(numbers.tolist(), names, strict=True):
        first[number] = min(name, first.get(number, name))
    return np.array([first[number] for number in numbers.tolist()], dtype=object)


def _name_from(path: Path, root: Path) -> str:
    """The path relative to `root`, so that a folder that was moved is split in the same way."""
    text = os.path.normpath(path)
    base = os.path.normpath(root)
    return text[len(base) :].lstrip(os.sep) if text.startswith(base + os.sep) else text


def stratification_columns(every: Iterable[Labels]) -> tuple[np.ndarray, np.ndarray]:
    """Columns to stratify by, bool (N, C), and which of them (C,) the training split must contain.

    There is one column per class of each task, one per task of numbers for its labelled rows, and one for rows without
    any label, which training does not need.
    """
    columns = [labels.presence() for labels in every]
    labelled_NC = np.concatenate(columns, axis=1)
    labelled_NC = labelled_NC[:, labelled_NC.any(0)]
    without_N = ~labelled_NC.any(1)
    needed_C = np.append(np.ones(labelled_NC.shape[1], dtype=bool), False)
    return np.column_stack([labelled_NC, without_N]), needed_C


def assign_splits(
    every: Iterable[Labels], units: np.ndarray, shares: tuple[float, float, int], *, source: Path
) -> np.ndarray:
    """A split for each row (N,): whole units, stratified by the classes of all tasks, with every class in train.

    `units` (N,) are names of units; `shares` is (val, test, seed). Raises DataError where no assignment leaves every
    class in train and a row in val and test.
    """
    val, test, seed = shares
    if val + test >= 1:
        raise DataError(
            f"{source}: data.val {val:g} and data.test {test:g} leave no training data; their sum must be less than 1"
        )
    if not val and not test:
        return np.full(len(units), "train")
    names, unit_of_row = np.unique(units.astype(str), return_inverse=True)
    columns_NC, needed_C = stratification_columns(every)
    best: tuple[float, np.ndarray] | None = None
    for attempt in range(ATTEMPTS if MIN_SPLIT_UNITS < len(names) <= MAX_RETRY_UNITS else 1):
        place_of = np.argsort(np.argsort([_hash(name, seed, attempt) for name in names]))
        assignment = _SplitAssignment(place_of[unit_of_row], columns_NC, needed_C, shares=(test, val))
        if not assignment.assign_all():
            break  # no order of the units makes it possible
        if best is None or assignment.cost < best[0] - 5 * MOVE_PENALTY * len(units):
            best = assignment.cost, assignment.split_U[place_of[unit_of_row]]
    if best is None:
        held_out = " and ".join(f"{share:.0%} for {name}" for share, name in ((val, "val"), (test, "test")) if share)
        raise DataError(
            f"{source}: {count(len(units), 'video')} in {count(len(names), 'group')} are too few "
            f"to hold out {held_out}: train would lack a class, or be empty; "
            "give a split for each row, or set data.val or data.test to 0"
        )
    return np.array(["test", "val", "train"])[best[1]]


def repair_folds(folds: Sequence[np.ndarray], every: Iterable[Labels], units: np.ndarray) -> list[np.ndarray]:
    """The same folds, changed so that each can be tested and trained on.

    Folds are row numbers (R,), together all rows; `units` (N,) names the unit of each row, which stays in one fold.

    If all units with a class are in one fold, no model is trained on this class before it is tested there: one of
    these units moves to another fold. If a fold is empty, a unit moves into it.
    """
    names, unit_of_row = np.unique(units.astype(str), return_inverse=True)
    fold_of_row = np.empty(len(units), dtype=np.int64)
    for number, rows in enumerate(folds):
        fold_of_row[rows] = number
    fold_of_unit = np.empty(len(names), dtype=np.int64)
    fold_of_unit[unit_of_row] = fold_of_row
    columns_NC, needed_C = stratification_columns(every)
    has_UC = np.zeros((len(names), int(needed_C.sum())), dtype=bool)
    np.logical_or.at(has_UC, unit_of_row, columns_NC[:, needed_C])
    faults = _count_fold_faults(fold_of_unit, has_UC, len(folds))
    while faults:
        options = []
        for unit, fold in product(_movable_units(fold_of_unit, has_UC, len(folds)).tolist(), range(len(folds))):
            moved = fold_of_unit.copy()
            moved[unit] = fold
            sizes = np.bincount(moved[unit_of_row], minlength=len(folds))
            options.append((_count_fold_faults(moved, has_UC, len(folds)), int((sizes**2).sum()), unit, fold))
        best = min(options, default=(faults, 0, 0, 0))
        if best[0] >= faults:
            break  # what remains is reported when the folds are validated
        faults, fold_of_unit[best[2]] = best[0], best[3]
    fold_of_row = fold_of_unit[unit_of_row]
    return [np.flatnonzero(fold_of_row == number) for number in range(len(folds))]


def _columns_in_one_fold(fold_of_unit: np.ndarray, has_UC: np.ndarray, folds: int) -> np.ndarray:
    """Columns, bool (C,), that several units have, all of them in one fold."""
    has_FC = np.stack([has_UC[fold_of_unit == fold].any(0) for fold in range(folds)])
    return (has_FC.sum(0) == 1) & (has_UC.sum(0) > 1)


def _count_fold_faults(fold_of_unit: np.ndarray, has_UC: np.ndarray, folds: int) -> int:
    empty = folds - len(np.unique(fold_of_unit))
    return int(_columns_in_one_fold(fold_of_unit, has_UC, folds).sum()) + empty


def _movable_units(fold_of_unit: np.ndarray, has_UC: np.ndarray, folds: int) -> np.ndarray:
    """Units with a column that only their fold has; if a fold is empty, all units."""
    if len(np.unique(fold_of_unit)) < folds:
        return np.arange(len(fold_of_unit))
    return np.flatnonzero(has_UC[:, _columns_in_one_fold(fold_of_unit, has_UC, folds)].any(1))


def _hash(name: str, seed: int, attempt: int) -> bytes:
    text = f"{seed}\0{attempt}\0{name}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()


class _SplitAssignment:
    """The split of each unit (U,); units are numbered in the order in which they are visited.

    The cost of a held-out split is the sum over columns of (its rows − wanted rows)² ÷ all rows of the column. A last
    column counts all rows, and weighs as much as the others together. The training split has no cost, but must keep
    a row of each column in `needed_C`. Shape letters: N rows, C columns, U units, S splits.
    """

    def __init__(
        self, unit_of_row: np.ndarray, columns_NC: np.ndarray, needed_C: np.ndarray, *, shares: tuple[float, ...]
    ) -> None:
        rows, count = columns_NC.shape
        units = int(unit_of_row.max()) + 1
        row, column = np.nonzero(np.column_stack([columns_NC, np.ones(rows, dtype=bool)]))
        self.counts_UC = csr_matrix((np.ones(len(row)), (unit_of_row[row], column)), shape=(units, count + 1))
        totals_C = np.asarray(self.counts_UC.sum(0)).ravel()
        self.weights_C = np.append(np.ones(count), count) / np.maximum(totals_C, 1)
        self.sizes_U = np.bincount(unit_of_row).astype(float)
        self.square_U = self.counts_UC.power(2) @ self.weights_C
        self.off_SC = -np.outer(shares, totals_C)  # rows of each held-out split minus wanted rows
        needed_UC = csr_matrix((self.counts_UC > 0).multiply(np.append(needed_C, False)), dtype=float)
        needed_UC.eliminate_zeros()
        self.needed_UC = needed_UC
        self.holders_C = np.asarray(needed_UC.sum(0)).ravel()  # training units with each column
        self.cells = self._cells(count)
        self.shares = shares
        self.train = len(shares)
        self.split_U = np.full(units, self.train)
        self.spare = -1

    def _cells(self, count: int) -> list[list[tuple[int, float, float]]]:
        """For each unit (column, its rows, the column's weight) without the last column: plain numbers loop faster."""
        weights = self.weights_C.tolist()
        cells: list[list[tuple[int, float, float]]] = [[] for _ in self.sizes_U]
        units, columns = self.counts_UC.nonzero()
        for unit, column, rows in zip(units.tolist(), columns.tolist(), self.counts_UC.data.tolist(), strict=True):
            if column < count:
                cells[unit].append((column, rows, weights[column]))
        return cells

    @property
    def cost(self) -> float:
        return float((self.off_SC**2 @ self.weights_C)[np.array(self.shares) > 0].sum())

    def assign_all(self) -> bool:
        """Assign every unit; False if no assignment gives train all needed columns and every split a unit."""
        if len(self.split_U) <= MIN_SPLIT_UNITS:
            return self._try_all()
        if not self._begin():
            return False
        while (best := self._best()) is not None:
            for unit, split in best:
                self._move(unit, split)
        return True

    def _try_all(self) -> bool:
        """Take the cheapest of all assignments (A, U); of equally cheap ones, the first in the order of units."""
        wanted = [split for split, share in enumerate((*self.shares, 1)) if share > 0]
        splits_AU = np.array(list(product(wanted, repeat=len(self.split_U))))
        counts_UC, needed_UC = self.counts_UC.toarray(), self.needed_UC.toarray()
        lacks_AC = (splits_AU == self.train) @ needed_UC < np.minimum(self.holders_C, 1)
        valid_A = ~lacks_AC.any(1)
        costs_A = np.zeros(len(splits_AU))
        for split in wanted:
            chosen_AU = splits_AU == split
            valid_A &= chosen_AU.any(1)
            if split != self.train:
                costs_A += (chosen_AU @ counts_UC + self.off_SC[split]) ** 2 @ self.weights_C
        if valid_A.any():
            self.split_U = splits_AU[np.where(valid_A, costs_A.round(9), np.inf).argmin()]
        return bool(valid_A.any())

    def _begin(self) -> bool:
        """Fill the held-out splits one after the other; False if one of them gets no unit.

        In order, a unit is taken if it brings its columns (without the last) nearer to the wanted rows.
        """
        wanted = [split for split, share in enumerate(self.shares) if share > 0]
        for split in wanted:
            last, off = split == wanted[-1], self.off_SC[split]
            for unit in np.flatnonzero(self.split_U == self.train).tolist():
                cost = sum(weight * rows * (2 * off[column] + rows) for column, rows, weight in self.cells[unit])
                if cost < 0 and self._teaches_without(unit) and (last or self._spares_another(unit)):
                    self._move(unit, split)
            if not (self.split_U == split).any() and not self._take_nearest(split, last=last):
                return False
        return True

    def _take_nearest(self, split: int, *, last: bool) -> bool:
        """Take the cheapest unit; False if the training split cannot give one away."""
        for unit in np.argsort(-self._gains_of_moves()[:, split], kind="stable").tolist():
            in_train = self.split_U[unit] == self.train
            if in_train and self._teaches_without(unit) and (last or self._spares_another(unit)):
                self._move(unit, split)
                return True
        return False

    def _best(self) -> list[tuple[int, int]] | None:
        """The best move of one unit, or swap of two, as (unit, new split) of each; None if none lowers the cost."""
        moves_US = self._gains_of_moves() - MOVE_PENALTY * self.sizes_U[:, None]
        in_train_U = self.split_U == self.train
        moves_US[in_train_U & (self.needed_UC @ (self.holders_C == 1).astype(float) > 0)] = -np.inf
        lone_U = np.bincount(self.split_U)[self.split_U] == 1
        choices: list[tuple[np.ndarray, tuple[int, int] | None]] = [
            (np.where(lone_U[:, None], -np.inf, moves_US), None)
        ]
        if len(moves_US) <= MAX_SWAP_UNITS:
            choices += [
                (self._gains_of_swaps(moves_US, *pair), pair) for pair in combinations(range(self.train + 1), 2)
            ]
        gains, pair = max(choices, key=lambda choice: choice[0].max(initial=-np.inf))
        if gains.max(initial=-np.inf) <= 0:
            return None
        one, other = (int(place) for place in np.unravel_index(gains.argmax(), gains.shape))
        return [(one, other)] if pair is None else [(one, pair[1]), (other, pair[0])]

    def _gains_of_moves(self) -> np.ndarray:
        """(U, S): by how much moving a unit to each split lowers the cost; minus infinity for its present split."""
        slope_US = 2 * self.counts_UC @ (self.off_SC * self.weights_C).T
        joins_US = np.append(-slope_US - self.square_U[:, None], np.zeros((len(slope_US), 1)), axis=1)
        joins_US[:, [share == 0 for share in (*self.shares, 1)]] = -np.inf
        leaves_US = np.append(slope_US - self.square_U[:, None], np.zeros((len(slope_US), 1)), axis=1)
        units = np.arange(len(slope_US))
        gains_US = joins_US + leaves_US[units, self.split_U][:, None]
        gains_US[units, self.split_U] = -np.inf
        return gains_US

    def _gains_of_swaps(self, moves_US: np.ndarray, one: int, other: int) -> np.ndarray:
        """(U, U): the gain of swapping a unit of split `one` with a unit of `other`; minus infinity for other pairs."""
        gains_UU = np.full((len(moves_US), len(moves_US)), -np.inf)
        mine, theirs = np.flatnonzero(self.split_U == one), np.flatnonzero(self.split_U == other)
        held_out = (one != self.train) + (other != self.train)
        gains_UU[np.ix_(mine, theirs)] = (
            moves_US[mine, other][:, None] + moves_US[theirs, one] + 2 * held_out * self.alike[np.ix_(mine, theirs)]
        )
        return gains_UU

    @cached_property
    def alike(self) -> np.ndarray:
        return (self.counts_UC.multiply(self.weights_C) @ self.counts_UC.T).toarray()

    def _teaches_without(self, unit: int) -> bool:
        return bool((self.holders_C[_row(self.needed_UC, unit)[0]] > 1).all())

    def _spares_another(self, unit: int) -> bool:
        """Whether the training split, without this unit, could give another one away.

        `self.spare` remembers the unit that was found last, and is tried first.
        """
        holders_C = self.holders_C.copy()
        holders_C[_row(self.needed_UC, unit)[0]] -= 1
        left_U = self.split_U == self.train
        left_U[unit] = False
        if self.spare >= 0 and left_U[self.spare] and (holders_C[_row(self.needed_UC, self.spare)[0]] > 1).all():
            return True
        spare = np.flatnonzero(left_U & (self.needed_UC @ (holders_C == 1).astype(float) == 0))
        self.spare = int(spare[-1]) if len(spare) else -1
        return len(spare) > 0

    def _move(self, unit: int, split: int) -> None:
        columns, counts = _row(self.counts_UC, unit)
        before = int(self.split_U[unit])
        for held_out, sign in ((before, -1), (split, 1)):
            if held_out != self.train:
                self.off_SC[held_out, columns] += sign * counts
        self.holders_C[_row(self.needed_UC, unit)[0]] += int(split == self.train) - int(before == self.train)
        self.split_U[unit] = split


def _row(matrix: csr_matrix, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The nonzero columns of a row, and their values; the last column comes last."""
    cells = slice(*matrix.indptr[row : row + 2].tolist())
    return matrix.indices[cells], matrix.data[cells]
