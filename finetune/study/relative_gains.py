"""How much better some runs are at their tasks than others, on the same rows: relative gains with their intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.metrics.intervals import (
    JackknifeUnits,
    StandardError,
    combine_standard_errors,
    half_width,
    half_width_from_jackknife,
    jackknife,
    jackknife_units,
    max_unseen_share,
)
from finetune.metrics.paired_tests import MIN_TEST_UNITS
from finetune.metrics.tasks import validation_headline
from finetune.recipe.tasks import CATEGORICAL_KINDS
from finetune.report.pages.tasks_ablation import MIN_SEEDS
from finetune.run.folder import RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.predictions_csv import read_task_predictions
from finetune.run.read import open_run, read_results_file

MAX_JACKKNIFE_UNITS = 500  # groups, or clips, that are left out one by one
Pairs = Mapping[tuple[str, int], tuple[Path, Path]]  # by task and seed: a run, and the one that it is compared with


class Gain(NamedTuple):
    """In per cent of what it is compared with; without interval where one seed or too few groups cannot give one."""

    percent: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class _TaskPredictions:
    """What a run said of a task on the rows that have its label: figures follow from any choice of these rows."""

    kind: str
    truth: np.ndarray
    said: np.ndarray
    groups: np.ndarray  # (N,) of str: that of each row, or its path

    def figure(self, rows: np.ndarray) -> float:
        return next(iter(validation_headline(self.kind, self.truth[rows], self.said[rows]).values()))


def relative_gains(pairs: Pairs, *, split: str) -> tuple[dict[str, Gain], Gain]:
    """Of each task how much better its headline figure is, and the mean over tasks, ΔM (arXiv:1904.08918).

    Figures are means over seeds before they are compared. Intervals join two kinds of chance: which groups, or clips,
    are tested (a jackknife), and how training went (the spread between seeds). One seed alone does not give one.
    """
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    seeds = list(dict.fromkeys(seed for _, seed in pairs))
    told = {
        key: (_read_task_predictions(run, key[0], split), _read_task_predictions(other, key[0], split))
        for key, (run, other) in pairs.items()
    }
    figures_TS2 = _metrics(told, tasks, seeds, set())
    base_T1 = np.maximum(np.abs(figures_TS2[:, :, 1].mean(1)), 1e-9)[:, None]
    by_seed_TS = (figures_TS2[:, :, 0] - figures_TS2[:, :, 1]) / base_T1
    left_out_UT = np.array([_gains(_metrics(told, tasks, seeds, unit)) for unit in _jackknife_groups(told)])
    unseen_T = [_unseen(told[task, seeds[0]][0]) / base for task, (base,) in zip(tasks, base_T1, strict=True)]
    units = {task: _units(told[task, seeds[0]][:1]) for task in tasks}
    whole = _units([told[task, seeds[0]][0] for task in tasks])
    by_task = {
        task: _gain(by_seed_TS[number], left_out_UT[:, number], units[task], unseen=unseen_T[number])
        for number, task in enumerate(tasks)
    }
    unseen = float(np.linalg.norm(unseen_T)) / len(tasks)
    return by_task, _gain(by_seed_TS.mean(0), left_out_UT.mean(1), whole, unseen=unseen)


def metric_difference(
    run: Path, other: Path, task: str, *, split: str, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """By how much a task's headline figure of a run is above another's on the same rows, with its interval."""
    told = {(task, 0): (_read_task_predictions(run, task, split), _read_task_predictions(other, task, split))}
    (((one, base),),) = _metrics(told, [task], [0], set())
    figures_U2 = np.array([_metrics(told, [task], [0], unit)[0, 0] for unit in _jackknife_groups(told)])
    units = _units(told[task, 0][:1])
    if units.count < 2:
        return one - base, (-math.inf, math.inf)
    half = half_width_from_jackknife(one - base, figures_U2[:, 0] - figures_U2[:, 1], units, level=level)
    return one - base, (one - base - half, one - base + half)


def _read_task_predictions(run: Path, task: str, split: str) -> _TaskPredictions:
    recipe, classes = open_run(run)
    manifest = saved_manifest(run, recipe, classes).for_split(split)
    labels = manifest.tasks[task]
    evaluation = RunFolder(run).evaluation(split)
    paths, said = read_task_predictions(evaluation, task, read_results_file(evaluation.results)["tasks"])
    row_of = {str(manifest.path(row)): row for row in range(len(manifest))}
    rows = np.array([row_of[path] for path in paths], dtype=int)
    known = labels.known[rows]
    groups = np.array(paths) if manifest.groups is None else manifest.groups[rows].astype(str)
    return _TaskPredictions(labels.kind, labels.values[rows[known]], said[known], groups[known])


PredictionPairs = Mapping[tuple[str, int], tuple[_TaskPredictions, _TaskPredictions]]


def _metrics(told: PredictionPairs, tasks: Sequence[str], seeds: Sequence[int], left_out: set[str]) -> np.ndarray:
    """The figure of each task, seed and run of a pair (T, S, 2), without the rows of some groups; NaN without rows."""

    def figure(of: _TaskPredictions) -> float:
        rows = np.flatnonzero(~np.isin(of.groups, list(left_out)))
        return of.figure(rows) if len(rows) else math.nan

    return np.array([[[figure(each) for each in told[task, seed]] for seed in seeds] for task in tasks])


def _gains(figures_TS2: np.ndarray) -> np.ndarray:
    """The relative gain of each task (T,)."""
    better_T, base_T = np.moveaxis(figures_TS2.mean(1), 1, 0)
    return (better_T - base_T) / np.maximum(np.abs(base_T), 1e-9)


def _jackknife_groups(told: PredictionPairs) -> Iterator[set[str]]:
    """The groups that are left out together, of all rows: one each, as long as there are few."""
    groups = np.unique(np.concatenate([pair[0].groups for pair in told.values()]))
    of_groups = jackknife_units(None, len(groups), most=MAX_JACKKNIFE_UNITS).unit_of_row
    return (set(groups[of_groups == unit].tolist()) for unit in range(int(of_groups.max()) + 1))


def _units(told: Sequence[_TaskPredictions]) -> JackknifeUnits:
    """Those of the rows of several tasks, of which each counts alike."""
    groups = np.concatenate([each.groups for each in told])
    weights_N = np.concatenate([np.full(len(each.groups), 1 / len(each.groups)) for each in told])
    return jackknife_units(groups, len(groups), weights_N=weights_N)


def _unseen(told: _TaskPredictions) -> float:
    """How far clips that are not among these may move a figure that counts clips, where two runs agree on all."""
    return max_unseen_share(_units([told])) if told.kind in CATEGORICAL_KINDS else 0.0


def _gain(by_seed_S: np.ndarray, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, unseen: float) -> Gain:
    gain = float(by_seed_S.mean())
    if len(by_seed_S) < MIN_SEEDS or units.count < MIN_TEST_UNITS:
        return Gain(100 * gain, None)
    of_seeds = StandardError(float(by_seed_S.std(ddof=1)) / math.sqrt(len(by_seed_S)), len(by_seed_S) - 1)
    half = math.hypot(half_width(combine_standard_errors([jackknife(gain, leave_one_out_U, units), of_seeds])), unseen)
    return Gain(100 * gain, (100 * (gain - half), 100 * (gain + half)))
