"""Compare an exported model with its run: on random frames, and on the clips of a split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.intervals import clip_name
from finetune.data.labels import LABEL_SEPARATOR
from finetune.data.manifest import Manifest
from finetune.errors import RunError, reason_of
from finetune.export.graph import LOGITS, ExportGraph
from finetune.inference.exported_session import Session
from finetune.inference.forward import decode_logits, predict_batch
from finetune.inference.predict_split import Progress
from finetune.metrics.calibration import apply_temperature
from finetune.recipe.tasks import OutputSpec
from finetune.run.fitted import Fitted
from finetune.run.model_json import SplitParity
from finetune.run.read import Run
from finetune.video.row_loader import evaluation_loader

BATCH_SIZES = (1, 2, 3)  # the graph is traced with 2: one that were fixed to it would fail
TOLERANCE = {"fp32": 1e-4}  # of an output; where it exceeds 1, as a share of its largest value
NUMBER_TOLERANCE = 1e-3  # from which on a predicted number counts as different, as a share of its spread in training


def compare_batches(graph: ExportGraph, session: Session) -> dict[str, float]:
    """The largest difference of each output from the run's at fp32, for random frames in batches of BATCH_SIZES.

    Values above 1 count as shares of the largest. The run's values are those of prediction: they do not come from the
    graph. Raises RunError for values that are not finite, and where the file refuses a batch size.
    """
    largest = dict.fromkeys(graph.output_names, 0.0)
    for batch in BATCH_SIZES:
        frames = graph.example(batch)
        try:
            values = session(frames.numpy())
        except Exception as error:  # each runtime has own exceptions
            raise RunError(f"the exported model fails on a batch of {batch}: {reason_of(error)}") from error
        for name, expected in _expected_outputs(graph, frames).items():
            given = values[name]
            if given.shape != expected.shape or not np.isfinite(given).all():
                what = "values that are not finite" if given.shape == expected.shape else f"the shape {given.shape}"
                raise RunError(f"the exported model gives {what} in its output {name}, for a batch of {batch}")
            difference = np.abs(given - expected).max() / max(1.0, np.abs(expected).max())
            largest[name] = max(largest[name], float(difference))
    return largest


@torch.inference_mode()
def _expected_outputs(graph: ExportGraph, frames: Tensor) -> dict[str, np.ndarray]:
    """What the outputs are by the run's own functions: its forward pass view by view, and calibration of arrays."""
    model, clips_BVTCHW = graph.model, frames if graph.views > 1 else frames.unsqueeze(1)
    predictions = predict_batch(model, clips_BVTCHW, precision="fp32")
    logits_of_views = [model(clips_BVTCHW[:, view]) for view in range(graph.views)]
    expected = {}
    for task, output in model.outputs.items():
        values = predictions[task].numpy()
        if not output.is_categorical:
            averaged = graph.views == 1 or output.kind == "regress"
            expected[task] = values.mean(1) if averaged else values
            continue
        temperature = graph.temperatures.get(task)
        if temperature is not None:
            values = apply_temperature(values, temperature, multilabel=output.kind == "multilabel")
        logits_BVK = torch.stack([logits[task] for logits in logits_of_views], 1).numpy()
        expected |= {task: values, task + LOGITS: logits_BVK if graph.views > 1 else logits_BVK[:, 0]}
    return expected


@dataclass(frozen=True, eq=False)
class SplitComparison:
    """Predictions of the run at fp32 and of the exported model for the same decoded clips of a split.

    `run` and `exported` have by task probabilities without temperature, or numbers averaged over views, (N, K); those
    of boxes and motion are fractions of the input picture. `rows` (N,) are rows of `manifest`.
    """

    manifest: Manifest
    split: str
    rows: np.ndarray
    run: dict[str, np.ndarray]
    exported: dict[str, np.ndarray]
    skipped: dict[int, str]


@dataclass(frozen=True, eq=False)
class ClipsToCompare:
    manifest: Manifest
    split: str
    progress: Progress | None = None


def compare_split(run: Run, graph: ExportGraph, session: Session, clips: ClipsToCompare) -> SplitComparison:
    """Each clip is read once, as in evaluation, and given to both. Raises RunError where none can be read."""
    manifest, split, progress = clips.manifest, clips.split, clips.progress
    loader, bad = evaluation_loader(manifest, split, run.recipe, size=graph.model.size, views=graph.views)
    rows: list[int] = []
    skipped = dict(bad)
    of_run: dict[str, list[np.ndarray]] = {task: [] for task in graph.model.outputs}
    of_exported: dict[str, list[np.ndarray]] = {task: [] for task in graph.model.outputs}
    with loader:
        for batch in loader:
            skipped.update(batch["skipped"])
            clips_BVTCHW = batch["clips"]
            if clips_BVTCHW is not None:
                rows += batch["row"].tolist()
                outputs = session((clips_BVTCHW if graph.views > 1 else clips_BVTCHW[:, 0]).numpy())
                for task, values in predict_batch(graph.model, clips_BVTCHW, precision="fp32").items():
                    output = graph.model.outputs[task]
                    of_run[task].append(values.numpy() if output.is_categorical else values.mean(1).numpy())
                    of_exported[task].append(_exported_predictions(graph, task, outputs))
            if progress is not None:
                progress(len(rows) + len(skipped) - len(bad), len(loader.dataset))
    if not rows:
        raise RunError(f"none of the clips of the split {split!r} can be read; --check batches needs none")
    run_NK, exported_NK = (
        {task: np.concatenate(batches) for task, batches in values.items() if batches}
        for values in (of_run, of_exported)
    )
    return SplitComparison(manifest, split, np.array(rows, dtype=int), run_NK, exported_NK, skipped)


def _exported_predictions(graph: ExportGraph, task: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    output = graph.model.outputs[task]
    if not output.is_categorical:
        values = outputs[task]
        return values.mean(1) if values.ndim == 3 else values
    logits = torch.from_numpy(outputs[task + LOGITS])
    logits_VBK = logits.transpose(0, 1) if graph.views > 1 else logits.unsqueeze(0)
    return decode_logits(output, logits_VBK, consensus=graph.model.consensus).numpy()


def describe_differences(
    comparison: SplitComparison, outputs: Mapping[str, OutputSpec], fitted: Mapping[str, Fitted], *, allowed: int
) -> SplitParity:
    """The part of model.json about a split: which predictions differ."""
    different, largest = {}, {}
    for task, output in outputs.items():
        of_run_NK, of_exported_NK = comparison.run[task], comparison.exported[task]
        largest[task] = float(np.abs(of_run_NK - of_exported_NK).max())
        pairs = zip(
            comparison.rows,
            _predicted(output, of_run_NK, fitted[task]),
            _predicted(output, of_exported_NK, fitted[task]),
            _differs(output, of_run_NK, of_exported_NK, fitted[task]),
            strict=True,
        )
        different[task] = [
            {"clip": _short_name(comparison.manifest, int(row)), "run": before, "exported": after}
            for row, before, after, differs in pairs
            if differs
        ]
    split: Any = comparison.split
    return {
        "split": split,
        "clips": len(comparison.rows),
        "skipped": len(comparison.skipped),
        "largest_difference": largest,
        "different": different,
        "allowed": allowed,
    }


def _short_name(manifest: Manifest, row: int) -> str:
    """The name of a clip's file and of its folder, without those above: they are of this machine."""
    return clip_name(Path(*manifest.path(row).parts[-2:]), *manifest.interval(row), manifest.boxes_cell(row))


def _differs(output: OutputSpec, before_NK: np.ndarray, after_NK: np.ndarray, fitted: Fitted) -> np.ndarray:
    """Whether the predicted class, any of the predicted classes, or any number differs, bool (N,)."""
    if not output.is_categorical:
        return (np.abs(before_NK - after_NK) > NUMBER_TOLERANCE * np.array(output.scale)).any(1)
    if fitted.thresholds_K is not None:
        return ((before_NK >= fitted.thresholds_K) != (after_NK >= fitted.thresholds_K)).any(1)
    return before_NK.argmax(1) != after_NK.argmax(1)


def _predicted(output: OutputSpec, values_NK: np.ndarray, fitted: Fitted) -> list[Any]:
    if not output.is_categorical:
        return [[float(f"{value:.6g}") for value in values_K] for values_K in values_NK]
    if fitted.thresholds_K is None:
        return [output.names[index] for index in values_NK.argmax(1)]
    above_NK = values_NK >= fitted.thresholds_K
    return [
        LABEL_SEPARATOR.join(name for name, is_above in zip(output.names, above_K, strict=True) if is_above)
        for above_K in above_NK
    ]
