"""Several runs that are seen as one: their folder, and each of them done already, gone on with, or begun."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.evaluation.evaluate import evaluate
from finetune.metrics.intervals import paired_difference
from finetune.metrics.paired_tests import SIGNIFICANCE_LEVEL
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import CATEGORICAL_KINDS, primary_task
from finetune.run.checkpoint import begin_run, load, new_run_folder
from finetune.run.predictions_csv import read_prediction_rows
from finetune.run.read import evaluation_folder
from finetune.runtime.processes import process_count
from finetune.storage.atomic import current_version, exclusive_lock, write_json
from finetune.storage.safe_read import read_json
from finetune.study.relative_gains import metric_difference
from finetune.train.from_recipe import train_from_recipe
from finetune.train.loop import EpochCallback
from finetune.train.resume import resume


@contextmanager
def study_folder(out: Path, recipe: Recipe, manifest: Manifest, **settings: Any) -> Iterator[None]:
    """A new folder for several runs, or one in which the very same was begun before, held against other programs.

    Raises RunError.
    """
    if process_count() > 1:
        raise RunError("several runs are trained one after the other, in one process; leave out the launcher")
    _begin(out, recipe, manifest, settings)
    with exclusive_lock(out / ".lock", f"{out}: another program is training into it; wait for its end, or end it"):
        yield


def _begin(out: Path, recipe: Recipe, manifest: Manifest, settings: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings))
    if not (out / "study.json").is_file():
        new_run_folder("", out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            begin_run(out, recipe, manifest)
            write_json(out / "study.json", wanted)
        except OSError as error:
            raise RunError(f"{out}: cannot be written: {error.strerror}") from None
        return
    if load_recipe(str(out / "recipe.yaml")) != recipe:
        raise RunError(f"{out}: was begun with another recipe; choose another --out")
    begun = read_json(out / "study.json")
    if changed := [f"{key} {begun.get(key)}, not {wanted[key]}" for key in wanted if begun.get(key) != wanted[key]]:
        raise RunError(f"{out}: was begun with {', '.join(changed)}; choose another --out")
    refuse_changed_rows(out, manifest, out / "manifest.csv")


def refuse_changed_rows(out: Path, manifest: Manifest, before: Path) -> None:
    """Raise RunError where a manifest written before, if there is one, has other rows."""
    with TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.csv"
        manifest.to_csv(rows)
        if before.is_file() and before.read_bytes() != rows.read_bytes():
            raise RunError(f"{out}: was begun with other clips, groups or splits; choose another --out")


def train_and_evaluate(
    recipe: Recipe,
    manifest: Manifest,
    *,
    out: Path,
    split: str,
    start: Path | None = None,
    after_epoch: EpochCallback | None = None,
) -> Path:
    """The run in `out`, trained and scored on a split; what of it is there already is not done again.

    It starts from the weights of the run `start`, or from a new model.
    """
    if (evaluation_folder(out, split) / "results.json").is_file():
        return out
    if current_version(out / "checkpoints" / "last").is_dir():
        resume(out, after_epoch=after_epoch)
    else:
        new_run_folder("", out)
        train_from_recipe(
            recipe, manifest, out=out, model=None if start is None else load(start), after_epoch=after_epoch
        )
    evaluate(out, split=split)
    return out


def correct_rows(run: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray | None]:
    """Whether a run was right on each val row (N,), and the rows' groups; a row that could not be read was not."""
    answers = read_prediction_rows(evaluation_folder(run, "val"))
    assert answers is not None, run
    right = {Path(each.path).resolve(): each.is_correct for each in answers}
    rows = manifest.rows("val")
    groups = None if manifest.groups is None else manifest.groups[rows]
    return np.array([right.get(manifest.path(row).resolve(), False) for row in rows]), groups


def score_difference(
    run: Path, other: Path, manifest: Manifest, *, comparisons: int
) -> tuple[float, tuple[float, float]]:
    """How much more often a run is wholly right on the val rows than another, as a share, with its interval.

    Where no task has classes, by how much its figure is above. Of several `comparisons` the intervals are wider, so
    that all of them together hold 95 times of 100 (Bonferroni).
    """
    task = primary_task(manifest.tasks) if manifest.tasks else None
    level = 1 - SIGNIFICANCE_LEVEL / max(1, comparisons)
    if task is not None and manifest.tasks[task].kind not in CATEGORICAL_KINDS:
        return metric_difference(run, other, task, split="val", level=level)
    correct_N, groups = correct_rows(run, manifest)
    return paired_difference(correct_N, correct_rows(other, manifest)[0], groups=groups, level=level)


def val_units(manifest: Manifest) -> tuple[int, str]:
    """How many groups, or clips where no groups are known, runs are compared on, and which of the two."""
    rows = manifest.rows("val")
    if manifest.groups is None:
        return len(rows), "clip"
    return len(np.unique(manifest.groups[rows])), "group"


def primary_task_metrics(run: Path, split: str) -> dict[str, Any]:
    """What an evaluation of a run says of its task, of several the first with classes."""
    results = read_json(evaluation_folder(run, split) / "results.json")
    return results["tasks"][primary_task(results["tasks"])]


def refuse_without_val(manifest: Manifest) -> None:
    """Raise RunError where runs cannot be compared: test clips choose nothing."""
    if not len(manifest.rows("val")):
        raise RunError(f"{manifest.source}: has no rows in the split val, on which runs are compared; set data.val")
