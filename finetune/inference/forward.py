"""Forward passes over the views of clips, the same in evaluation and prediction."""

import torch
from torch import Tensor

from finetune.model.classifier import VideoClassifier
from finetune.model.frozen_prefix import Cut
from finetune.model.view_consensus import combine_views
from finetune.recipe.tasks import OutputSpec
from finetune.runtime.device import autocast
from finetune.runtime.threads import limit_threads


@torch.inference_mode()
def predict_batch(
    model: VideoClassifier, clips_BVTCHW: Tensor, *, precision: str, cut: Cut | None = None
) -> dict[str, Tensor]:
    """Predictions of each task, float32 on the CPU, of a model in evaluation mode.

    Classes and levels: probabilities (B, K), combined over views. Numbers: one set per view, (B, V, K); boxes and
    motion are fractions of the model's input picture. With a `cut`, the input is the activations there,
    (B, V, *cut.item). Views are computed one after the other, so memory does not grow with their number. The outputs
    of a video may differ in the last digits with the batch that it is in; B = 1 gives reproducible numbers.
    """
    device = next(model.parameters()).device
    views: list[dict[str, Tensor]] = []
    for view in range(clips_BVTCHW.shape[1]):
        with autocast(precision, device), limit_threads(small=model.fits_one_thread):
            views.append(model(clips_BVTCHW[:, view].to(device), cut))
    return {
        task: decode_logits(output, torch.stack([outputs[task] for outputs in views]), consensus=model.consensus).cpu()
        for task, output in model.outputs.items()
    }


def probabilities(model: VideoClassifier, clips_BVTCHW: Tensor, *, precision: str) -> Tensor:
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
    falling = reached_BK.cummin(1).values
    ones = torch.ones_like(falling[:, :1])
    return torch.cat([ones, falling], 1) - torch.cat([falling, 0 * ones], 1)
