"""Predictions for all windows of a recording in one pass over its frames, in constant memory.

Where a network computes each frame by itself, a frame's features are computed once and shared by all windows that hold
it. Where it mixes frames before temporal pooling, pictures are shared, and each window is computed by itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from finetune.inference.forward import predict_batch
from finetune.model.classifier import VideoClassifier
from finetune.model.frozen_prefix import Cut, cut_after_backbone, forward_before_cut
from finetune.recipe.own_parts import is_own
from finetune.runtime.device import autocast
from finetune.runtime.threads import limit_threads

FRAMES_PER_BATCH = 16
WINDOWS_PER_BATCH = 64  # of those that take features; the rest of the network is small
NumberedPictures = tuple[list[int], Tensor]  # frame numbers, rising, and their pictures uint8 (F, C, H, W)
NumberedValues = tuple[list[int], Tensor]  # frame numbers, rising, and a value of each (F, …)


def features_cut(model: VideoClassifier) -> Cut | None:
    """The cut after the backbone, where it computes each frame by itself; None where it mixes frames.

    Own backbones may do anything.
    """
    backbone = model.backbone
    if backbone.takes_clips or model.settings.fusion != "late" or is_own(model.settings.backbone):
        return None
    cut = cut_after_backbone(model, model.num_frames)
    return None if cut.taps and backbone.num_towers > 1 else cut


def predict_windows(
    model: VideoClassifier, batches: Iterable[NumberedPictures], sampled_WVT: np.ndarray, *, precision: str
) -> Iterator[dict[str, Tensor]]:
    """Predictions as `predict_batch` gives them for some windows at a time, in order; see `window_inputs`."""
    for clips, cut in window_inputs(model, batches, sampled_WVT, precision=precision):
        yield predict_batch(model, clips, precision=precision, cut=cut)


def window_inputs(
    model: VideoClassifier, batches: Iterable[NumberedPictures], sampled_WVT: np.ndarray, *, precision: str
) -> Iterator[tuple[Tensor, Cut | None]]:
    """Pictures (B, V, T, C, H, W), or activations at a cut (B, V, *cut.item), of some windows at a time, in order.

    The windows take the frames `sampled_WVT` (W, V, T); `batches` have all these frames, in rising order.
    """
    cut = features_cut(model)
    has_maps = cut is None or bool(cut.taps)  # of each frame pictures, or maps of earlier stages
    per_batch = max(1, FRAMES_PER_BATCH // model.num_frames) if has_maps else WINDOWS_PER_BATCH
    values = (
        (numbers, pictures if cut is None else _frame_features(model, pictures, cut, precision))
        for numbers, pictures in batches
    )
    for clips in windows_of_values(values, sampled_WVT, per_batch=per_batch):
        if cut is not None:
            cut = replace(cut, dtype=clips.dtype)
            clips = clips.movedim(3, 2) if model.backbone.num_towers == 2 else clips  # (B, V, T, 2, D)
            clips = _by_stage(clips, cut) if cut.taps else clips
        yield clips, cut


def windows_of_values(
    values: Iterable[NumberedValues], sampled_WVT: np.ndarray, *, per_batch: int = WINDOWS_PER_BATCH
) -> Iterator[Tensor]:
    """The values (B, V, T, …) of the frames of some windows at a time, in order.

    The windows take the frames `sampled_WVT` (W, V, T); `values` has a value for each, in rising order of the frames.
    A value is in memory until the last window that takes it.
    """
    last_W = np.maximum.accumulate(sampled_WVT.max((1, 2)))
    lowest_W = np.minimum.accumulate(sampled_WVT.min((1, 2))[::-1])[::-1]  # frame that a window or a later one takes
    held: dict[int, Tensor] = {}
    done = 0
    for numbers, values_F in values:
        held |= zip(numbers, values_F, strict=True)
        complete = int(np.searchsorted(last_W, numbers[-1], side="right"))
        while done < complete:
            windows_BVT = sampled_WVT[done : min(done + per_batch, complete)]
            yield _stack(held, windows_BVT)
            done += len(windows_BVT)
        held = {number: value for number, value in held.items() if done < len(lowest_W) and number >= lowest_W[done]}


@torch.inference_mode()
def _frame_features(model: VideoClassifier, pictures_FCHW: Tensor, cut: Cut, precision: str) -> Tensor:
    """The backbone's features of each frame, (F, D), or (F, 2, D) of two towers.

    Where tasks read earlier stages, their outputs follow, all flattened: (F, N).
    """
    device = next(model.parameters()).device
    with autocast(precision, device), limit_threads(small=model.fits_one_thread):
        features = forward_before_cut(model, pictures_FCHW.unsqueeze(1).to(device), cut)
    return features if cut.taps else features.squeeze(-2)


def _by_stage(frames_BVTN: Tensor, cut: Cut) -> Tensor:
    """The activations of clips at the cut, (B, V, *cut.item), from those of their frames: stage by stage."""
    sizes = [prod(shape) // cut.num_frames for shape in (cut.entering, *cut.taps.values())]
    return torch.cat([of_stage.flatten(2) for of_stage in frames_BVTN.split(sizes, 3)], 2)


def _stack(held: dict[int, Tensor], windows_BVT: np.ndarray) -> Tensor:
    numbers = windows_BVT.ravel().tolist()
    return torch.stack([held[number] for number in numbers]).unflatten(0, windows_BVT.shape)
