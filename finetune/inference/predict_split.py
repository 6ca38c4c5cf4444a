"""Forward passes over the rows of a split: one row at a time, each video decoded once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from finetune.feature_cache.cached_clips import CachedClipLoader
from finetune.feature_cache.frozen_part import FrozenPart, cut_activations
from finetune.inference.clip_vectors import ClipVectors
from finetune.inference.exported import InferenceModel
from finetune.inference.forward import clip_scores, decode_outputs, probabilities, view_logits
from finetune.inference.head_inputs import HeadInputs
from finetune.metrics.open_set import REJECTION_SCORE, ScoreName, score_quantiles
from finetune.model.classifier import VideoClassifier
from finetune.recipe.tasks import SPATIAL_KINDS, OutputSpec
from finetune.run.results import KnownScores
from finetune.runtime.threads import map_in_threads
from finetune.video.dataset import ClipDataset
from finetune.video.geometry import Placement, boxes_to_source, motion_to_source
from finetune.video.loader import Batch, ClipLoader

Progress = Callable[[int, int], None]
CONCURRENT_BATCHES = 8  # that a small network computes at the same time


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for `rows` (N,), in ascending order: by task, probabilities or numbers (N, K).

    Boxes (x, y, w, h) are in pixels of the video, motion in pixels per frame. Tasks of kind detect and track have
    detections (N, D, 8) with DETECTION_FIELDS in pixels, segment the classes of the pixels of the model's picture,
    uint8 (N, S, S). `skipped` has the reason for each row
    that cannot be read. `scores` (N,) by name tell clips of unknown classes; only with one task of classes.
    """

    rows: np.ndarray
    tasks: dict[str, np.ndarray]
    skipped: dict[int, str]
    scores: dict[ScoreName, np.ndarray] = field(default_factory=dict)


def predict_rows(
    model: InferenceModel,
    loader: "ClipLoader | CachedClipLoader | WithFrozenBaseline",
    *,
    precision: str,
    frozen: FrozenPart | None = None,
    progress: Progress | None = None,
    vectors: ClipVectors | None = None,
) -> Predictions:
    """Predictions for the rows of a loader.

    With one row per batch, predictions do not depend on other rows, and equal those of `predict`. With a `frozen` part,
    the loader may give its outputs instead of clips; clips are passed through it first. The inputs of the head of the
    primary task are added to `vectors`, as means over views.
    """
    model.eval()
    scored: dict[int, dict[str, np.ndarray]] = {}
    scores: dict[int, dict[ScoreName, float]] = {}
    skipped: dict[int, str] = {}
    keep_inputs = vectors is not None
    computed = _batches_with_logits(model, loader, precision=precision, frozen=frozen, keep_inputs=keep_inputs)
    for batch, logits_VBK, inputs_BD in computed:
        if logits_VBK is not None:
            if vectors is not None:
                vectors.add(batch["row"].tolist(), inputs_BD)
            outputs, scores_B = decode_outputs(model, logits_VBK), clip_scores(model, logits_VBK)
            for place, row in enumerate(batch["row"].tolist()):
                of_row = {task: values[place].numpy() for task, values in outputs.items()}
                scored[row] = to_source_pixels(model.outputs, of_row, partial(loader.dataset.placements_of_row, row))
                scores[row] = {name: float(values[place]) for name, values in scores_B.items()}
        skipped.update(batch["skipped"])
        if progress is not None:
            progress(len(scored) + len(skipped), len(loader.dataset))
    rows = np.array(sorted(scored), dtype=int)
    tasks = {task: np.array([scored[row].pop(task) for row in rows]) for task in model.outputs}
    names: list[ScoreName] = list(next(iter(scores.values()), {}))
    return Predictions(rows, tasks, skipped, {name: np.array([scores[row][name] for row in rows]) for name in names})


def known_scores_record(predictions: Predictions) -> KnownScores | None:
    """The scores of val rows as the checkpoint keeps them; None without rows, or without one task of classes."""
    values_N = predictions.scores.get(REJECTION_SCORE, np.array([]))
    finite_N = values_N[np.isfinite(values_N)]
    return {"score": REJECTION_SCORE, "values": score_quantiles(finite_N)} if len(finite_N) else None


_Computed = tuple[Batch, dict[str, Tensor] | None, np.ndarray]


def _batches_with_logits(
    model: InferenceModel,
    loader: "ClipLoader | CachedClipLoader | WithFrozenBaseline",
    *,
    precision: str,
    frozen: FrozenPart | None,
    keep_inputs: bool,
) -> Iterator[_Computed]:
    """Each batch with the outputs of the model's heads, (V, B, K), and their inputs (B, D), empty unless kept.

    A small network computes several batches at a time.
    """
    cut = None if frozen is None else frozen.cut
    with _kept_inputs(model) if keep_inputs else nullcontext() as inputs:

        def compute(batch: Batch) -> _Computed:
            clips_BV = batch["clips"]
            if clips_BV is None:
                return batch, None, np.empty(0)
            if frozen is not None and clips_BV.dtype == torch.uint8:
                assert isinstance(model, VideoClassifier)
                clips_BV = cut_activations(model, clips_BV.flatten(0, 1), frozen).unflatten(0, clips_BV.shape[:2])
            logits_VBK = view_logits(model, clips_BV, precision=precision, cut=cut)
            return batch, logits_VBK, np.empty(0) if inputs is None else inputs.take()

        if not (model.runs_in_threads and cut is None):
            yield from map(compute, loader)
            return
        batches = iter(loader)
        while group := list(islice(batches, CONCURRENT_BATCHES)):
            yield from map_in_threads(compute, group)


def _kept_inputs(model: InferenceModel) -> HeadInputs:
    assert isinstance(model, VideoClassifier)  # an exported model does not show them
    return HeadInputs(model)


def to_source_pixels(
    outputs: Mapping[str, OutputSpec],
    predictions: Mapping[str, np.ndarray],
    placements: Callable[[], Sequence[Placement]],
) -> dict[str, np.ndarray]:
    """The predictions (K,) of one row by task, from (V, K) for numbers, V views, and (K,) for classes.

    Numbers are averaged over views. Boxes and motion are converted to pixels of the video, also those of detections
    (D, 8); `placements` returns the position of each view in the video. Classes of pixels (S, S) are left as they are.
    """
    by_task = {}
    for task, output in outputs.items():
        values = predictions[task]
        if output.is_dense:
            by_task[task] = values if output.kind == "segment" else detections_to_source(values, placements()[0])
            continue
        if output.kind in SPATIAL_KINDS:
            back = boxes_to_source if output.kind == "box" else motion_to_source
            values = np.stack([back(view[None], at)[0] for view, at in zip(values, placements(), strict=True)])
        by_task[task] = values if output.is_categorical else values.mean(0)
    return by_task


def detections_to_source(detections_D8: np.ndarray, placement: Placement) -> np.ndarray:
    """Detections (D, 8) in fractions of the model's picture, as in pixels of the video, float64 (D, 8).

    Motion is NaN where the task predicts none, or where all frames of the clip are the same.
    """
    is_detection_D = detections_D8[:, 4] > 0
    source_D8 = np.zeros(detections_D8.shape)
    source_D8[is_detection_D] = detections_D8[is_detection_D]
    source_D8[is_detection_D, :4] = boxes_to_source(detections_D8[is_detection_D, :4], placement)
    motion_D2 = motion_to_source(detections_D8[is_detection_D, 6:], placement)
    source_D8[is_detection_D, 6:] = motion_D2 if placement.step else np.nan
    return source_D8


class WithFrozenBaseline:
    """A loader that also runs a second model on each batch, so that videos are decoded once for both."""

    def __init__(self, loader: ClipLoader, model: VideoClassifier | None, precision: str) -> None:
        self.loader = loader
        self.model = model
        self.precision = precision
        self.scored: dict[int, np.ndarray] = {}

    @property
    def dataset(self) -> ClipDataset:
        return self.loader.dataset

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if self.model is not None and batch["clips"] is not None:
                probs_BK = probabilities(self.model, batch["clips"], precision=self.precision).numpy()
                self.scored.update(zip(batch["row"].tolist(), probs_BK, strict=True))
            yield batch

    def probs(self, rows_N: np.ndarray) -> np.ndarray:
        """Class probabilities of the second model (N, K)."""
        return np.array([self.scored[row] for row in rows_N])
