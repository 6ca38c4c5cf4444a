"""What training fitted on the val rows beside the weights: class thresholds and a temperature for each task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import RunError
from finetune.recipe.tasks import CLASSIFICATION_KINDS
from finetune.run.folder import RunFolder
from finetune.run.read import Run, read_checkpoint_meta


@dataclass(frozen=True, eq=False)
class Fitted:
    """Of one task: `thresholds_K`, the probability from which on each of K classes is predicted, where a clip may have
    several; and the temperature that calibrates its probabilities, if there were val rows to fit it on.
    """

    thresholds_K: np.ndarray | None = None
    temperature: float | None = None


def read_fitted(run: Run) -> dict[str, Fitted]:
    """By task, from the best checkpoint. Raises RunError where thresholds do not fit the classes."""
    meta: Mapping[str, Any] = read_checkpoint_meta(RunFolder(run.folder).checkpoint("best"))
    by_task = meta["tasks"] if "tasks" in meta else dict.fromkeys(run.outputs, meta)
    return {task: _fitted(run, task, by_task.get(task, {})) for task in run.outputs}


def _fitted(run: Run, task: str, meta: Mapping[str, Any]) -> Fitted:
    output = run.outputs[task]
    temperature = meta.get("temperature") if output.kind in CLASSIFICATION_KINDS else None
    if output.kind != "multilabel":
        return Fitted(None, temperature)
    thresholds = meta.get("thresholds") or [0.5] * len(output.names)
    if len(thresholds) != len(output.names):
        raise RunError(f"{run.folder}: has {len(thresholds)} thresholds for {len(output.names)} classes; train again")
    return Fitted(np.array(thresholds), temperature)
