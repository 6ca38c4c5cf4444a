"""Compare the headline metrics of runs on the same rows: relative gains and differences, with their intervals."""

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

MAX_JACKKNIFE_UNITS = 500  # more groups, or clips, are left out several at a time
Pairs = Mapping[tuple[str, int], tuple[Path, Path]]  # by task and seed: a run and its baseline


class Gain(NamedTuple):
    """A gain in percent of the baseline's metric; no interval with one seed or too few groups."""

    percent: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class _LabelledPredictions:
    """Predictions (N, K) of a run for one task, on the rows with a label of it.

    `truth` are class codes (N,), or values (N, K); `groups` (N,) are names of groups, or the rows' paths.
    """

    kind: str
    truth: np.ndarray
    predictions_NK: np.ndarray
    groups: np.ndarray

    def headline(self, rows: np.ndarray) -> float:
        """The headline metric of some of the rows; NaN where it cannot be measured."""
        (value,) = validation_headline(self.kind, self.truth[rows], self.predictions_NK[rows]).values()
        return math.nan if value is None else value


PredictionPairs = Mapping[tuple[str, int], tuple[_LabelledPredictions, _LabelledPredictions]]


def relative_gains(pairs: Pairs, *, split: str) -> tuple[dict[str, Gain], Gain]:
    """The relative gain of each task's headline metric over its baseline, and their mean ΔM (arXiv:1904.08918).

    Metrics are averaged over seeds before they are compared. Intervals combine two sources of error: the groups, or
    clips, that are tested (a jackknife), and training (the spread between seeds), for which one seed is not enough.
    """
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    seeds = list(dict.fromkeys(seed for _, seed in pairs))
    predictions = {
        (task, seed): (_read_predictions(run, task, split), _read_predictions(baseline, task, split))
        for (task, seed), (run, baseline) in pairs.items()
    }
    metrics_TS2 = _metrics(predictions, tasks, seeds, set())
    baseline_T1 = np.maximum(np.abs(metrics_TS2[:, :, 1].mean(1)), 1e-9)[:, None]
    gains_TS = (metrics_TS2[:, :, 0] - metrics_TS2[:, :, 1]) / baseline_T1
    left_out_UT = np.array(
        [_gains(_metrics(predictions, tasks, seeds, groups)) for groups in _jackknife_groups(predictions)]
    )
    first_seed = [predictions[task, seeds[0]][0] for task in tasks]
    unseen_T = [_unseen(task) / baseline for task, (baseline,) in zip(first_seed, baseline_T1, strict=True)]
    by_task = {
        task: _gain(gains_TS[number], left_out_UT[:, number], _units([first_seed[number]]), unseen=unseen_T[number])
        for number, task in enumerate(tasks)
    }
    unseen = float(np.linalg.norm(unseen_T)) / len(tasks)
    return by_task, _gain(gains_TS.mean(0), left_out_UT.mean(1), _units(first_seed), unseen=unseen)


def metric_difference(
    run: Path, baseline: Path, task: str, *, split: str, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """The headline metric of a task of a run minus that of another on the same rows, with its interval."""
    pair = (_read_predictions(run, task, split), _read_predictions(baseline, task, split))
    pairs = {(task, 0): pair}
    (((value, baseline_value),),) = _metrics(pairs, [task], [0], set())
    difference = value - baseline_value
    left_out_U2 = np.array([_metrics(pairs, [task], [0], groups)[0, 0] for groups in _jackknife_groups(pairs)])
    units = _units(pair[:1])
    if units.count < 2:
        return difference, (-math.inf, math.inf)
    half = half_width_from_jackknife(difference, left_out_U2[:, 0] - left_out_U2[:, 1], units, level=level)
    return difference, (difference - half, difference + half)


def _read_predictions(run: Path, task: str, split: str) -> _LabelledPredictions:
    manifest = saved_manifest(open_run(run)).for_split(split)
    labels = manifest.tasks[task]
    evaluation = RunFolder(run).evaluation(split)
    clips, predictions_NK = read_task_predictions(evaluation, task, read_results_file(evaluation.results)["tasks"])
    row_of = {manifest.clip_name(row): row for row in range(len(manifest))}
    rows = np.array([row_of[clip] for clip in clips], dtype=int)
    known = labels.known[rows]
    groups = np.array(clips) if manifest.groups is None else manifest.groups[rows].astype(str)
    return _LabelledPredictions(labels.kind, labels.values[rows[known]], predictions_NK[known], groups[known])


def _metrics(pairs: PredictionPairs, tasks: Sequence[str], seeds: Sequence[int], left_out: set[str]) -> np.ndarray:
    """Headline metrics (T, S, 2) by task, seed, and run or baseline, without some groups; NaN where no row is left."""

    def metric(predictions: _LabelledPredictions) -> float:
        rows = np.flatnonzero(~np.isin(predictions.groups, list(left_out)))
        return predictions.headline(rows) if len(rows) else math.nan

    return np.array([[[metric(run) for run in pairs[task, seed]] for seed in seeds] for task in tasks])


def _gains(metrics_TS2: np.ndarray) -> np.ndarray:
    """The relative gain of each task (T,)."""
    value_T, baseline_T = np.moveaxis(metrics_TS2.mean(1), 1, 0)
    return (value_T - baseline_T) / np.maximum(np.abs(baseline_T), 1e-9)


def _jackknife_groups(pairs: PredictionPairs) -> Iterator[set[str]]:
    """Sets of groups to leave out in turn: one group in each set, or several if there are many groups."""
    groups = np.unique(np.concatenate([run.groups for run, _ in pairs.values()]))
    unit_of_group = jackknife_units(None, len(groups), most=MAX_JACKKNIFE_UNITS).unit_of_row
    return (set(groups[unit_of_group == unit].tolist()) for unit in range(int(unit_of_group.max()) + 1))


def _units(tasks: Sequence[_LabelledPredictions]) -> JackknifeUnits:
    """The units of the rows of several tasks, each task with the same weight."""
    groups = np.concatenate([task.groups for task in tasks])
    weights_N = np.concatenate([np.full(len(task.groups), 1 / len(task.groups)) for task in tasks])
    return jackknife_units(groups, len(groups), weights_N=weights_N)


def _unseen(task: _LabelledPredictions) -> float:
    """Upper bound of the share of clips on which two runs may differ although they agree on all tested clips."""
    return max_unseen_share(_units([task])) if task.kind in CATEGORICAL_KINDS else 0.0


def _gain(by_seed_S: np.ndarray, leave_one_out_U: np.ndarray, units: JackknifeUnits, *, unseen: float) -> Gain:
    gain = float(by_seed_S.mean())
    if len(by_seed_S) < MIN_SEEDS or units.count < MIN_TEST_UNITS:
        return Gain(100 * gain, None)
    seed_error = StandardError(float(by_seed_S.std(ddof=1)) / math.sqrt(len(by_seed_S)), len(by_seed_S) - 1)
    half = math.hypot(
        half_width(combine_standard_errors([jackknife(gain, leave_one_out_U, units), seed_error])), unseen
    )
    return Gain(100 * gain, (100 * (gain - half), 100 * (gain + half)))
