"""Forward passes over the views of clips, the same in evaluation and prediction."""

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from finetune.inference.exported import ExportedModel, InferenceModel
from finetune.metrics.open_set import ScoreName, known_scores
from finetune.model.classifier import VideoClassifier
from finetune.model.dense.detection import DetectionHead
from finetune.model.dense.segmentation import SegmentationHead
from finetune.model.frozen_prefix import Cut
from finetune.model.view_consensus import combine_views
from finetune.recipe.tasks import OutputSpec
from finetune.runtime.device import autocast
from finetune.runtime.threads import limit_threads


def predict_batch(
    model: InferenceModel, clips_BVTCHW: Tensor, *, precision: str, cut: Cut | None = None
) -> dict[str, Tensor]:
    """Predictions of each task, float32 on the CPU, of a model in evaluation mode; see `decode_outputs`.

    The outputs of a video may differ in the last digits with the batch that it is in; B = 1 gives reproducible numbers.
    """
    return decode_outputs(model, view_logits(model, clips_BVTCHW, precision=precision, cut=cut))


@torch.inference_mode()
def view_logits(
    model: InferenceModel, clips_BVTCHW: Tensor, *, precision: str, cut: Cut | None = None
) -> dict[str, Tensor]:
    """The outputs of each task's head for each view, (V, B, K), of a model in evaluation mode.

    With a `cut`, the input is the activations there, (B, V, *cut.item). Views are computed one after the other, so
    memory does not grow with their number. V is 1 where an exported model averages over views itself.
    """
    if isinstance(model, ExportedModel) and model.views > 1:
        outputs = model(clips_BVTCHW)
        return {task: values.transpose(0, 1) if values.ndim == 3 else values[None] for task, values in outputs.items()}
    views: list[dict[str, Tensor]] = []
    for view in range(clips_BVTCHW.shape[1]):
        with autocast(precision, model.device), limit_threads(small=model.fits_one_thread):
            views.append(model(clips_BVTCHW[:, view].to(model.device), cut))
    return {task: torch.stack([outputs[task] for outputs in views]) for task in model.outputs}


@torch.inference_mode()
def decode_outputs(model: InferenceModel, logits_VBK: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Predictions of each task, float32 on the CPU, from the outputs of its head, (V, B, K).

    Classes and levels: probabilities (B, K), combined over views. Numbers: one set per view, (B, V, K); boxes and
    motion are fractions of the model's input picture. Detections: (B, D, 8) with DETECTION_FIELDS. Segmentation: the
    class of each pixel, uint8 (B, S, S).
    """
    return {
        task: (
            _decode_dense(model, task, logits_VBK[task])
            if output.is_dense
            else decode_logits(output, logits_VBK[task], consensus=model.consensus)
        ).cpu()
        for task, output in model.outputs.items()
    }


def _decode_dense(model: InferenceModel, task: str, outputs: Tensor) -> Tensor:
    """Detections or classes of pixels from the outputs of a head on the pyramid, of one view, (1, B, …)."""
    assert isinstance(model, VideoClassifier) and len(outputs) == 1
    head = model.heads[task]
    assert isinstance(head, DetectionHead | SegmentationHead)
    return head.decode(outputs[0])


def clip_scores(model: InferenceModel, logits_VBK: Mapping[str, Tensor]) -> dict[ScoreName, np.ndarray]:
    """The scores (B,) by which clips of unknown classes are told, of a model of one task of classes; else empty."""
    if [output.kind for output in model.outputs.values()] != ["classify"]:
        return {}
    return known_scores(logits_VBK[model.primary].float().transpose(0, 1).cpu().numpy())


def probabilities(model: InferenceModel, clips_BVTCHW: Tensor, *, precision: str) -> Tensor:
    """Class probabilities (B, K) of a model's first task that has classes; see `predict_batch`."""
    return predict_batch(model, clips_BVTCHW, precision=precision)[model.primary]


def decode_logits(output: OutputSpec, logits_VBK: Tensor, *, consensus: str) -> Tensor:
    """The head's outputs for V views of one task, (V, B, K), as `predict_batch` gives them."""
    if not output.is_categorical:
        scale, center = (torch.tensor(values, device=logits_VBK.device) for values in (output.scale, output.center))
        return (logits_VBK.float() * scale + center).transpose(0, 1)
    probs_BK = combine_views(logits_VBK, consensus, multilabel=output.kind != "classify")
    return level_probabilities(probs_BK) if output.kind == "ordinal" else probs_BK


def level_probabilities(reached_BK: Tensor) -> Tensor:
    """Probabilities of levels (B, K + 1), from the probabilities that each level above the lowest is reached (B, K).

    The latter are first made non-increasing over the levels.
    """
    falling = torch.stack(list(accumulate(reached_BK.unbind(1), torch.minimum)), 1)  # ONNX has no cummin
    ones = torch.ones_like(falling[:, :1])
    return torch.cat([ones, falling], 1) - torch.cat([falling, 0 * ones], 1)
