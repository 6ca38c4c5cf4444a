"""Build the results of an evaluation and write its files, for one run or for the folds of several runs together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.manifest import Manifest
from finetune.evaluation.choose_clips import choose_clips
from finetune.evaluation.contact_sheets import remove_sheets, write_sheets
from finetune.evaluation.frame_pictures import draw_worst_frames
from finetune.evaluation.task_results import TaskPredictions, write_predictions
from finetune.metrics.intervals import jackknife_units
from finetune.recipe.tasks import primary_task
from finetune.run.folder import EvaluationFolder
from finetune.run.results import RESULTS_FORMAT, Results, SkippedFile, TaskResults
from finetune.run.write import write_results
from finetune.video.dataset import ClipDataset


def build_results(
    run: Path,
    tested: Manifest,
    rows: np.ndarray,
    *,
    split: str,
    skipped: list[SkippedFile],
    tasks: dict[str, TaskResults],
    class_counts: dict[str, dict[str, int]],
    training_skipped: list[SkippedFile],
    warnings: list[dict[str, str]],
    protocol: dict[str, Any],
    seconds: float,
) -> Results:
    """Results of `rows` (N,), those of `tested` that could be read."""
    return {
        "schema": RESULTS_FORMAT,
        "run": run.resolve().name,
        "split": split,
        "num_rows": len(rows),
        "num_groups": None if tested.groups is None else len(np.unique(tested.groups[rows])),
        "skipped": skipped,
        "tasks": tasks,
        "class_counts": class_counts,
        "training_skipped": training_skipped,
        "warnings": warnings,
        "protocol": protocol,
        "seconds": round(seconds, 2),
    }


def write_evaluation(
    folder: Path,
    results: Results,
    tested: Manifest,
    predictions: Mapping[str, TaskPredictions],
    *,
    pictures_of: ClipDataset | None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write predictions, contact sheets of the clips that the report shows, and last results.json.

    `pictures_of` has the clips as the model saw them; None writes no contact sheets. `masks` are the predicted masks,
    uint8 (N, S, S), of the segmentation tasks that get pictures. Earlier sheets are removed, and results.json first:
    without it an evaluation that was interrupted does not count as one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    EvaluationFolder(folder).results.unlink(missing_ok=True)
    rows = write_predictions(folder, tested, predictions)
    remove_sheets(folder)
    frames = [] if pictures_of is None else list(draw_worst_frames(pictures_of, tested, predictions, masks or {}))
    if pictures_of is not None and (rows is not None or frames):
        primary = results["tasks"][primary_task(results["tasks"])]
        chosen = choose_clips(rows or [], multilabel=primary["kind"] == "multilabel")
        examples = results.get("retrieval", {}).get("examples", [])
        mosaics = [path for query in examples for path in (query["path"], *(hit["path"] for hit in query["hits"]))]
        write_sheets(folder, pictures_of, [clip.path for clip in chosen.clips()], frames, mosaics=mosaics)
    write_results(folder, results)


def describe_interval(groups: np.ndarray | None, rows: int) -> str:
    """How intervals are computed for `rows` rows; `groups` (N,) are the groups of the rows, if they have any."""
    units = jackknife_units(groups, rows)
    if groups is None:
        return f"95 %, jackknife over {rows} clips, Student's t"
    number, even = len(np.unique(groups)), round(units.effective, 1)
    uneven = f" (uneven: they count as {even:g} of equal size)" if even < 0.95 * number else ""
    return f"95 %, jackknife over {number} groups{uneven}, Student's t"
