"""The clips of a run with their labels and the run's answers: what the page lists, filters and sorts."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from finetune.data.intervals import WHOLE, clip_name
from finetune.data.labels import Labels, join_labels
from finetune.data.manifest import Manifest
from finetune.labelling.suspects import Suspect, suspects
from finetune.recipe.tasks import CATEGORICAL_KINDS, OutputSpec, primary_task
from finetune.run.fitted import read_fitted
from finetune.run.folder import SPLITS, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.predictions_csv import read_task_predictions, top_classes
from finetune.run.read import Run, find_evaluation, read_results_file

SUSPECT = "suspect"  # an order: the most doubtful labels first
UNSURE_MARGIN = 0.2  # between the two likeliest classes, or from a threshold


@dataclass(frozen=True)
class Answer:
    """The run's prediction of one task for a clip: `probability` and `margin` are None for numbers."""

    predicted: str
    probability: float | None = None
    margin: float | None = None
    probabilities: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Clip:
    """One row of the run's manifest with the changes made since, or a new file; labels and answers by task."""

    id: str
    row: int
    path: Path
    interval: tuple[float, float]
    name: str
    shown_path: str
    split: str
    group: str
    labels: dict[str, str]
    answers: dict[str, Answer] = field(default_factory=dict)
    bad: bool = False
    changed: dict[str, str | bool] = field(default_factory=dict)  # split, group, bad: the value before changes
    changed_labels: dict[str, str] = field(default_factory=dict)  # by task: the label before changes
    boxes: str = ""  # of a row that follows an object, see data/tubes.py


class SuspectClip(NamedTuple):
    """A clip whose label is doubtful, the likelier label, and the probability of the one that it has."""

    clip: Clip
    suggested: str
    score: float


@dataclass(frozen=True)
class ClipFilter:
    """Which clips are listed, and in which order; None and False do not filter."""

    task: str
    split: str | None = None
    label: str | None = None
    predicted: str | None = None
    group: str | None = None
    text: str | None = None
    wrong: bool = False
    unsure: bool = False
    bad: bool = False
    order: str = "row"


class Corrections(Protocol):
    """Where changes of clips are kept: see `Changes`."""

    def corrected(self, clips: Mapping[str, Clip]) -> dict[str, Clip]: ...


# By name, the key by which clips are sorted; clips without an answer come last.
ORDERS: dict[str, Callable[[Clip, str], Any]] = {
    "row": lambda clip, task: clip.row,
    "name": lambda clip, task: (clip.shown_path, clip.interval[0]),
    "confidence": lambda clip, task: _confidence(clip, task, math.inf),
    "-confidence": lambda clip, task: -_confidence(clip, task, -math.inf),
}


class ClipTable:
    """All clips of a run, in the order of its manifest, as changes have corrected them."""

    def __init__(self, run: Run, *, data_root: Path | None = None, changes: Corrections | None = None) -> None:
        self.manifest = saved_manifest(run, data_root=data_root, needs_files=False)
        self.tasks = dict(run.outputs)
        self.primary = primary_task(run.outputs)
        answers, self.answered_splits = _answers(run)
        self.run, self._changes = run, changes
        self._suspects: dict[str, list[Suspect]] = {}
        self._original = {clip.id: clip for clip in _clips(self.manifest, answers)}
        self._new: dict[str, Clip] = {}  # files that are no rows of the run
        self._current, self._corrected = self._original, dict[str, Clip]()

    def original(self, clip_id: str) -> Clip | None:
        """A clip as the run's manifest has it, or a new one without labels."""
        return self._original.get(clip_id) or self._new.get(clip_id)

    def add_new(self, path: Path) -> Clip:
        """A file that is no row of the run; it is not listed, but found by its id."""
        name = clip_name(path)
        if clip_id(name) not in self._original | self._new:
            shown = path.name.encode("utf-8", "replace").decode()
            clip = Clip(clip_id(name), -1, path, WHOLE, shown, shown, "", "", {})
            self._new = self._new | {clip.id: clip}
        return self.current()[clip_id(name)]

    def current(self) -> dict[str, Clip]:
        """All clips as they are now, by id; new ones are last."""
        known = self._original | self._new if self._new else self._original
        corrected = {} if self._changes is None else self._changes.corrected(known)
        if corrected is not self._corrected or len(self._current) != len(known):
            self._current, self._corrected = known | corrected, corrected
        return self._current

    @property
    def clips(self) -> list[Clip]:
        """The rows of the run, as they are now."""
        return [clip for clip in self.current().values() if clip.row >= 0]

    def select(self, wanted: ClipFilter) -> list[Clip]:
        """The clips that a filter lets through, in its order."""
        clips = [clip for clip in self.clips if _passes(clip, wanted)]
        if wanted.order == SUSPECT:
            suspects = {suspect.clip.id: number for number, suspect in enumerate(self.suspects(wanted.task))}
            return sorted(clips, key=lambda clip: suspects.get(clip.id, len(suspects)))
        return sorted(clips, key=lambda clip: ORDERS[wanted.order](clip, wanted.task))

    def suspects(self, task: str) -> list[SuspectClip]:
        """The clips whose label out-of-fold predictions contradict, the most doubtful first; not those changed since.

        Predictions are those of `finetune kfold` where the run is one of its folds, else of the run's splits test and
        val. Raises RunError where there are none.
        """
        if task not in self._suspects:
            study = RunFolder(self.run.folder.resolve().parent)
            self._suspects[task] = suspects(study.path if study.study.is_file() else self.run.folder, task)
        current = self.current()
        listed = [(current.get(clip_id(suspect.clip.name)), suspect) for suspect in self._suspects[task]]
        return [
            SuspectClip(clip, suspect.suggested, suspect.score)
            for clip, suspect in listed
            if clip is not None and clip.labels.get(task) == suspect.clip.label and not clip.bad
        ]

    def confusion(self, task: str, split: str | None) -> list[tuple[str, str, int]]:
        """How often clips with a label were given which answer, for all pairs that occur."""
        counts = Counter(
            (clip.labels[task], clip.answers[task].predicted)
            for clip in self.clips
            if task in clip.answers and clip.labels.get(task) and split in (None, clip.split)
        )
        return [(label, predicted, number) for (label, predicted), number in sorted(counts.items())]

    @property
    def splits(self) -> list[str]:
        return [split for split in ("train", "val", "test") if any(clip.split == split for clip in self.clips)]

    @property
    def groups(self) -> list[str]:
        return sorted({clip.group for clip in self.clips if clip.group})


def is_wrong(clip: Clip, task: str) -> bool:
    """Whether the run's answer is another than the label; False where either is missing."""
    answer = clip.answers.get(task)
    return bool(answer is not None and clip.labels.get(task) and answer.predicted != clip.labels[task])


def is_unsure(clip: Clip, task: str) -> bool:
    answer = clip.answers.get(task)
    return answer is not None and answer.margin is not None and answer.margin < UNSURE_MARGIN


def clip_id(name: str) -> str:
    """An id that tells nothing of the path: a caller can name no file by it."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:20]


def _confidence(clip: Clip, task: str, missing: float) -> float:
    answer = clip.answers.get(task)
    return missing if answer is None or answer.probability is None else answer.probability


def _passes(clip: Clip, wanted: ClipFilter) -> bool:
    answer = clip.answers.get(wanted.task)
    return (
        wanted.split in (None, clip.split)
        and wanted.group in (None, clip.group)
        and wanted.label in (None, clip.labels.get(wanted.task, ""))
        and (wanted.predicted is None or (answer is not None and answer.predicted == wanted.predicted))
        and (wanted.text is None or wanted.text.casefold() in clip.shown_path.casefold())
        and (not wanted.bad or clip.bad)
        and (not wanted.wrong or is_wrong(clip, wanted.task))
        and (not wanted.unsure or is_unsure(clip, wanted.task))
    )


def _clips(manifest: Manifest, answers: dict[str, dict[str, Answer]]) -> list[Clip]:
    paths = [manifest.path(row) for row in range(len(manifest))]
    shared = os.path.commonpath([path.parent for path in paths]) if paths else ""
    clips = []
    for row, path in enumerate(paths):
        interval, name = manifest.interval(row), manifest.clip_name(row)
        boxes = manifest.boxes_cell(row)
        part = clip_name("", *interval, boxes)
        labels = {task: _label_text(labels, row) for task, labels in manifest.labels_by_task.items()}
        group = "" if manifest.groups is None else str(manifest.groups[row])
        shown = os.path.relpath(path, shared).encode("utf-8", "replace").decode()
        clip = Clip(
            clip_id(name),
            row,
            path,
            interval,
            Path(shown).name + part,
            shown,
            str(manifest.splits[row]),
            group,
            labels,
            answers.get(name, {}),
            boxes=boxes,
        )
        clips.append(clip)
    return clips


def _label_text(labels: Labels, row: int) -> str:
    texts = [str(text) for text in labels.text(row)]
    if labels.kind in CATEGORICAL_KINDS:
        return texts[0]
    return ", ".join(f"{name} {text}" for name, text in zip(labels.names, texts, strict=False) if text)


def _answers(run: Run) -> tuple[dict[str, dict[str, Answer]], list[str]]:
    """The answers that the run's evaluations have, by clip name and task, and the splits that were evaluated."""
    answers: dict[str, dict[str, Answer]] = {}
    splits: list[str] = []
    fitted = read_fitted(run)
    for split in SPLITS:
        evaluation = find_evaluation(run.folder, split)
        if not evaluation.exists():
            continue
        results = read_results_file(evaluation.results)
        if results["split"] != split:
            continue
        splits.append(split)
        for task, output in run.outputs.items():
            if task not in results["tasks"]:
                continue
            names, values_NK = read_task_predictions(evaluation, task, results["tasks"])
            for name, values_K in zip(names, values_NK, strict=True):
                answers.setdefault(name, {})[task] = _answer(output, values_K, fitted[task].thresholds_K)
    return answers, splits


def _answer(output: OutputSpec, values_K: np.ndarray, thresholds_K: np.ndarray | None) -> Answer:
    if not output.is_categorical:
        return Answer(", ".join(f"{name} {value:.6g}" for name, value in zip(output.names, values_K, strict=True)))
    top = tuple(top_classes(values_K, output.names, count=len(output.names)))
    if thresholds_K is not None:
        margin = float(np.abs(values_K - thresholds_K).min())
        return Answer(join_labels(output.names, values_K >= thresholds_K), top[0][1], margin, top)
    second = top[1][1] if len(top) > 1 else 0.0
    return Answer(top[0][0], top[0][1], top[0][1] - second, top)


def page_of(items: Sequence[Any], offset: int, limit: int) -> Sequence[Any]:
    """`limit` items from the `offset`-th on."""
    return items[offset : offset + limit]
