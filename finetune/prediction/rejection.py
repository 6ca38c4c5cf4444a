"""Reject clips that look like none of the classes, by a threshold on the scores of the val clips."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import ArgumentError, RunError
from finetune.metrics.open_set import USUAL_SHARE, ScoreName, acceptance_threshold
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.run.fitted import read_fitted
from finetune.run.read import Run, evaluate_command
from finetune.text import count

NONE_OF_THE_CLASSES = "none of the classes"


@dataclass(frozen=True)
class Rejection:
    """A clip is rejected if its score, of metrics/open_set.py, is below the threshold."""

    score: ScoreName
    threshold: float

    def rejects(self, scores: Mapping[ScoreName, float]) -> bool:
        return scores[self.score] < self.threshold


def choose_rejection(run: Run, share: float, *, views: int | None = None) -> Rejection:
    """The threshold below which a `share` of the run's val clips lies, rounded down to whole clips.

    `views` is the number of views to predict with, None: that of the recipe. Scores are of uncalibrated logits. Raises
    ArgumentError for a share that is not between 0 and 1, and RunError where clips of this run cannot be rejected.
    """
    if not 0 < share < 1:
        raise ArgumentError(f"reject is {share:g}; it is a share of the val clips, above 0 and below 1")
    if run.recipe.tasks or run.outputs[DEFAULT_TASK].kind != "classify":
        what = "it has several tasks" if run.recipe.tasks else "its clips have several classes, each with a threshold"
        raise RunError(f"{run.folder}: --reject is for runs with one class per clip, but {what}; omit --reject")
    if views is not None and views != run.recipe.evaluate.views:
        raise RunError(
            f"{run.folder}: its val clips were scored with {count(run.recipe.evaluate.views, 'view')}, not {views}; "
            "omit --views or --reject"
        )
    saved = read_fitted(run)[DEFAULT_TASK].known_scores
    if saved is None:
        own, then = (run.folder, "") if run.exported is None else (Path("RUN"), ", then export it again")
        raise RunError(
            f"{run.folder}: has no scores of its val clips, by which --reject chooses a threshold; add them with "
            f"`{evaluate_command(own, 'val')}`{then} (a run without val clips cannot reject)"
        )
    values_N = np.array(saved["values"])
    if share * len(values_N) < 1 - 1e-9:
        raise RunError(
            f"{run.folder}: has the scores of {count(len(values_N), 'val clip')}, so the smallest share that it can "
            f"reject is 1/{len(values_N)} = {1 / len(values_N):.3g}, not {share:g}; use --reject "
            f"{np.ceil(1000 / len(values_N)) / 1000:g} or more"
        )
    return Rejection(saved["score"], acceptance_threshold(values_N, 1 - share))


def usual_share(run: Run) -> float | None:
    """The share USUAL_SHARE where clips of this run can be rejected by it, else None."""
    try:
        choose_rejection(run, USUAL_SHARE)
    except RunError:
        return None
    return USUAL_SHARE
