"""How much better some runs are at their tasks than others, on the same rows: relative gains with their intervals."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.answers import file_of, read_paths
from finetune.checkpoint import open_run
from finetune.evaluation import saved_manifest
from finetune.report.run_folder import evaluation_of
from finetune.scores.intervals import reach_of
from finetune.scores.tasks import validation_figures_of
from finetune.tasks import NAMED, primary_of

RESAMPLES = 500
Pairs = Mapping[tuple[str, int], tuple[Path, Path]]  # by task and seed: a run, and the one that it is compared with


class Gain(NamedTuple):
    """In per cent of what it is compared with; no interval where there is one unit to resample."""

    percent: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class _Told:
    """What a run said of a task on the rows that have its label: figures follow from any choice of these rows."""

    kind: str
    truth: np.ndarray
    said: np.ndarray
    paths: Sequence[str]
    units: Mapping[str, str]  # the group of each path, or the path itself

    def figure(self, rows: np.ndarray) -> float:
        return next(iter(validation_figures_of(self.kind, self.truth[rows], self.said[rows]).values()))


def relative_gains(pairs: Pairs, *, split: str) -> tuple[dict[str, Gain], Gain]:
    """Of each task how much better its headline figure is, and the mean over tasks, ΔM (arXiv:1904.08918).

    Figures are means over seeds before they are compared. Intervals are from resamples of groups, or clips, and of
    seeds, the same in all runs; Student's t with one less than there are groups, as in every interval here.
    """
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    seeds = list(dict.fromkeys(seed for _, seed in pairs))
    told = {key: tuple(_told(run, key[0], split) for run in pair) for key, pair in pairs.items()}
    whole = {key: [np.arange(len(each.paths)) for each in pair] for key, pair in told.items()}
    gains = np.array(_gains(told, whole, tasks, seeds))
    drawn = np.array([_gains(told, rows, tasks, chosen) for rows, chosen in _resamples(told, seeds)])
    units = len({unit for pair in told.values() for unit in pair[0].units.values()})
    by_task = {task: _around(gains[number], drawn[:, number], units) for number, task in enumerate(tasks)}
    return by_task, _around(float(gains.mean()), drawn.mean(1), units)


def difference(run: Path, other: Path, task: str, *, split: str) -> tuple[float, tuple[float, float]]:
    """By how much a task's headline figure of a run is above another's on the same rows, with its interval."""
    told = {(task, 0): (_told(run, task, split), _told(other, task, split))}

    def apart(rows: Mapping[tuple[str, int], Sequence[np.ndarray]]) -> float:
        one, base = (each.figure(at) for each, at in zip(told[task, 0], rows[task, 0], strict=True))
        return one - base

    value = apart({key: [np.arange(len(each.paths)) for each in pair] for key, pair in told.items()})
    drawn = np.array([apart(rows) for rows, _ in _resamples(told, [0])])
    units = len(set(told[task, 0][0].units.values()))
    reach = reach_of(drawn, units) if units > 1 else math.inf
    return value, (value - reach, value + reach)


def _told(run: Path, task: str, split: str) -> _Told:
    recipe, classes = open_run(run)
    manifest = saved_manifest(run, recipe, classes).only(split)
    labels = manifest.tasks[task]
    folder = evaluation_of(run, split)
    scored = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tasks"]
    is_first = task == primary_of(scored) and labels.kind in NAMED
    words, numbers = file_of("" if is_first else task)
    paths, said = read_paths(folder / words), np.load(folder / numbers)
    row_of = {str(manifest.path(row)): row for row in range(len(manifest))}
    rows = np.array([row_of[path] for path in paths], dtype=int)
    known = labels.known[rows]
    kept = [path for path, there in zip(paths, known, strict=True) if there]
    groups = manifest.groups
    units = {path: path if groups is None else str(groups[row_of[path]]) for path in kept}
    return _Told(labels.kind, labels.values[rows[known]], said[known], kept, units)


def _gains(
    told: Mapping[tuple[str, int], tuple[_Told, ...]],
    rows: Mapping[tuple[str, int], Sequence[np.ndarray]],
    tasks: Sequence[str],
    seeds: Sequence[int],
) -> list[float]:
    gains = []
    for task in tasks:
        figures = [
            [each.figure(at) for each, at in zip(told[task, seed], rows[task, seed], strict=True)] for seed in seeds
        ]
        better, base = np.mean(figures, axis=0)
        gains.append(float((better - base) / max(abs(base), 1e-9)))
    return gains


def _resamples(
    told: Mapping[tuple[str, int], tuple[_Told, ...]], seeds: Sequence[int]
) -> Iterator[tuple[dict[tuple[str, int], list[np.ndarray]], list[int]]]:
    """Rows of each run, and seeds, drawn anew."""
    rng, nothing = np.random.default_rng(0), np.array([], dtype=int)
    units = sorted({unit for pair in told.values() for unit in pair[0].units.values()})
    places = {key: [_places_by_unit(each) for each in pair] for key, pair in told.items()}
    for _ in range(RESAMPLES):
        drawn = [units[number] for number in rng.integers(len(units), size=len(units))]
        chosen = [seeds[number] for number in rng.integers(len(seeds), size=len(seeds))]
        rows = {
            key: [np.concatenate([by_unit.get(unit, nothing) for unit in drawn]) for by_unit in pair]
            for key, pair in places.items()
        }
        if all(len(each) for pair in rows.values() for each in pair):
            yield rows, chosen


def _places_by_unit(told: _Told) -> dict[str, np.ndarray]:
    found: dict[str, list[int]] = {}
    for place, path in enumerate(told.paths):
        found.setdefault(told.units[path], []).append(place)
    return {unit: np.array(places) for unit, places in found.items()}


def _around(value: float, drawn: np.ndarray, units: int) -> Gain:
    if units < 2:
        return Gain(100 * value, None)
    reach = reach_of(drawn, units)
    return Gain(100 * value, (100 * (value - reach), 100 * (value + reach)))
