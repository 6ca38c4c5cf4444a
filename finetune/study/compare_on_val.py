"""Compare runs of a study on the split val, clip by clip: test clips are not used to choose between runs."""

from pathlib import Path

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.metrics.intervals import paired_difference
from finetune.metrics.paired_tests import SIGNIFICANCE_LEVEL
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.run.folder import RunFolder
from finetune.run.predictions_csv import read_prediction_rows
from finetune.study.relative_gains import metric_difference


def refuse_without_val(manifest: Manifest) -> None:
    """Raise RunError where the split val has no rows."""
    if not len(manifest.rows("val")):
        raise RunError(f"{manifest.source}: has no rows in the split val, on which runs are compared; set data.val")


def score_difference(
    run: Path, baseline: Path, manifest: Manifest, *, comparisons: int
) -> tuple[float, tuple[float, float]]:
    """The accuracy of a run minus that of another on the val rows, with its paired interval, as shares.

    A clip with several classes is correct if all of them are. Where no task has classes, it is the difference of the
    headline metric. Intervals are widened for the number of `comparisons` (Bonferroni): all of them hold together with
    95 %.
    """
    task = primary_task(manifest.tasks) if manifest.tasks else None
    level = 1 - SIGNIFICANCE_LEVEL / max(1, comparisons)
    if task is not None and manifest.tasks[task].kind not in CATEGORICAL_KINDS:
        return metric_difference(run, baseline, task, split="val", level=level)
    rows = manifest.rows("val")
    groups = None if manifest.groups is None else manifest.groups[rows]
    correct_N, baseline_correct_N = (_correct_rows(folder, manifest, rows) for folder in (run, baseline))
    return paired_difference(correct_N, baseline_correct_N, groups=groups, level=level)


def _correct_rows(run: Path, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    """Whether a run predicted each of the val rows correctly (N,); a file that it could not read counts as wrong."""
    predictions = read_prediction_rows(RunFolder(run).evaluation("val").path)
    assert predictions is not None, run
    correct = {prediction.path: prediction.is_correct for prediction in predictions}
    return np.array([correct.get(manifest.clip_name(row), False) for row in rows])


def val_units(manifest: Manifest) -> tuple[int, str]:
    """The number of independent units of the val rows, and the word for one: "group", or "clip" without groups."""
    rows = manifest.rows("val")
    if manifest.groups is None:
        return len(rows), "clip"
    return len(np.unique(manifest.groups[rows])), "group"
