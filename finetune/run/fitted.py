"""The thresholds, the temperature and the scores of each task, which training computed on the val rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import RunError
from finetune.recipe.tasks import CLASSIFICATION_KINDS, DETECTION_KINDS
from finetune.run.folder import RunFolder
from finetune.run.read import Run, read_checkpoint_meta
from finetune.run.results import KnownScores


@dataclass(frozen=True, eq=False)
class Fitted:
    """Thresholds (K,), temperature, scores and score threshold of one task.

    A class is predicted if its probability is at least its threshold; None where a clip has one class. The temperature
    calibrates probabilities; None where there were no val rows to fit it on. `known_scores` are those of the val rows,
    by which clips of unknown classes are rejected. `score_threshold` is the score from which detections are shown; None
    without val frames with objects.
    """

    thresholds_K: np.ndarray | None = None
    temperature: float | None = None
    known_scores: KnownScores | None = None
    score_threshold: float | None = None


def read_fitted(run: Run) -> dict[str, Fitted]:
    """The fitted values by task, from the best checkpoint or the exported model.

    Raises RunError where thresholds do not fit the classes.
    """
    if run.exported is not None:
        return {task: _fitted(run, task, run.exported["tasks"][task]) for task in run.outputs}
    meta: Mapping[str, Any] = read_checkpoint_meta(RunFolder(run.folder).checkpoint("best"))
    by_task = meta["tasks"] if "tasks" in meta else dict.fromkeys(run.outputs, meta)
    return {task: _fitted(run, task, by_task.get(task, {})) for task in run.outputs}


def _fitted(run: Run, task: str, meta: Mapping[str, Any]) -> Fitted:
    output = run.outputs[task]
    if output.kind in DETECTION_KINDS:
        return Fitted(score_threshold=meta.get("score_threshold"))
    temperature = meta.get("temperature") if output.kind in CLASSIFICATION_KINDS else None
    if output.kind != "multilabel":
        return Fitted(None, temperature, meta.get("known_scores") if output.kind == "classify" else None)
    thresholds = meta.get("thresholds") or [0.5] * len(output.names)
    if len(thresholds) != len(output.names):
        raise RunError(f"{run.folder}: has {len(thresholds)} thresholds for {len(output.names)} classes; train again")
    return Fitted(np.array(thresholds), temperature)
