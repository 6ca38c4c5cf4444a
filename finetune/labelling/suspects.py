"""Suspects: labels that out-of-fold predictions contradict, the most doubtful first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.labels import join_labels
from finetune.labelling.confident_learning import contradicted, contradicted_classes, self_confidence
from finetune.labelling.journal import BAD, Journal, is_same
from finetune.labelling.out_of_fold import LabelledClip, OutOfFold, read_out_of_fold

MIN_GROUP_SUSPECTS = 3  # fewer suspects of one group are no pattern


@dataclass(frozen=True)
class Suspect:
    """A clip whose label is likely wrong: `suggested` is the likelier one. `score` is the probability of the label."""

    clip: LabelledClip
    suggested: str
    score: float


def suspects(folder: Path, task: str | None = None) -> list[Suspect]:
    """The suspects among the clips of a folder of `kfold` or of a run; see `read_out_of_fold`."""
    return rank_suspects(read_out_of_fold(folder, task))


def rank_suspects(predictions: OutOfFold) -> list[Suspect]:
    """The clips whose label confident learning contradicts, the lowest score first.

    Of a clip with several classes each one is tested, present or not; its score is that of the most doubtful.
    """
    targets_NK, probs_NK = predictions.targets, predictions.probs_NK.astype(np.float64)
    if predictions.is_multilabel:
        wrong_NK = contradicted_classes(probs_NK, targets_NK)
        scores_N = np.where(wrong_NK, np.where(targets_NK, probs_NK, 1 - probs_NK), np.inf).min(1)
        suggested_NK = targets_NK ^ wrong_NK
        rows = np.flatnonzero(wrong_NK.any(1))
    else:
        rows, scores_N, suggested_NK = _of_one_class(probs_NK, targets_NK)
    order = rows[np.argsort(scores_N[rows], kind="stable")]
    return [
        Suspect(predictions.clips[row], join_labels(predictions.classes, suggested_NK[row]), float(scores_N[row]))
        for row in order.tolist()
    ]


def _of_one_class(probs_NK: np.ndarray, targets_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The suspect rows, and for all rows their score (N,) and likeliest class, bool (N, K); none has no label."""
    labelled = np.flatnonzero(targets_NK.any(1))
    labels = targets_NK[labelled].argmax(1)
    scores_N = np.full(len(probs_NK), np.inf)
    scores_N[labelled] = self_confidence(probs_NK[labelled], labels)
    rows = labelled[contradicted(probs_NK[labelled], labels)]
    return rows, scores_N, probs_NK.argmax(1)[:, None] == np.arange(probs_NK.shape[1])


def without_corrected(found: Sequence[Suspect], journal: Journal, field: str) -> list[Suspect]:
    """The suspects whose label, in the column `field`, is still the one that was evaluated, and that are not bad."""
    values = journal.values()
    left = []
    for suspect in found:
        clip = journal.clips.clip(suspect.clip.path, suspect.clip.start, suspect.clip.end, suspect.clip.boxes)
        is_same_label = is_same(values.get((clip, field), suspect.clip.label), suspect.clip.label)
        left += [suspect] if is_same_label and not values.get((clip, BAD)) else []
    return left


def suspect_groups(found: Sequence[Suspect], clips: Sequence[LabelledClip]) -> dict[str, tuple[int, int]]:
    """Groups of which at least half of the clips are suspects, with the numbers of suspects and of clips.

    A group's labels are often wrong together: a recording that was swapped, an annotator who meant something else.
    """
    sizes = Counter(clip.group for clip in clips if clip.group)
    numbers = Counter(suspect.clip.group for suspect in found if suspect.clip.group)
    return {
        group: (number, sizes[group])
        for group, number in numbers.most_common()
        if number >= MIN_GROUP_SUSPECTS and 2 * number >= sizes[group]
    }
