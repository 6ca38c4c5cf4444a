"""Explain predictions: Grad-CAM heat maps over the clips that a report shows, and the weights of attention pooling.

Grad-CAM (arXiv:1610.02391): the channels of the last layer with spatial positions, each weighted by the gradient of
the predicted class's score.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import ModelError, RunError
from finetune.evaluation.contact_sheets import SIDE, make_sheet, sheet_file_name, sheet_frame_indices
from finetune.evaluation.external_set import read_external_set
from finetune.inference.predict_split import Progress
from finetune.model.classifier import VideoClassifier
from finetune.model.temporal_pooling import AttentionPooling
from finetune.recipe.tasks import require_classes
from finetune.run.checkpoint import load_model
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run, open_run, read_results_file
from finetune.runtime.device import resolve_device
from finetune.storage.atomic import atomic_file, write_json
from finetune.storage.safe_read import read_json
from finetune.video.dataset import ClipDataset
from finetune.video.encode import encode_jpeg
from finetune.video.pack.read import manifest_facts

OVERLAY_OPACITY = 0.8  # of the colour at the hottest position of a frame
MAX_EXTRA_TOKENS = 8  # class tokens and registers


class GradCamResult(NamedTuple):
    """Heat (T, h, w) from 0 to 1, the maximum of the clip; and the weights (T,) of attention pooling, else None.

    The heat is 0 everywhere where nothing in the clip raises the score of the predicted class.
    """

    heatmap_THW: Tensor
    weights_T: Tensor | None


def explain(
    run: str | Path | Run,
    overrides: Sequence[str] = (),
    *,
    evaluation: Path | None = None,
    data_root: Path | None = None,
    progress: Progress | None = None,
) -> int:
    """Add Grad-CAM heat maps to the pictures of an evaluation, by default that of the test split; the number of clips.

    `overrides` name the labelled set of an evaluation on other data, and `data_root` is where the run's files are now,
    as for `evaluate`. Raises RunError where the evaluation has no pictures, and ModelError for a backbone without a
    spatial feature map.
    """
    opened = open_run(run)
    require_classes(opened.outputs, opened.folder, "Grad-CAM")
    files = RunFolder(opened.folder).evaluation() if evaluation is None else EvaluationFolder(evaluation)
    if not files.pictures_index.is_file():
        raise RunError(f"{files.path}: has no frames; write them with `finetune evaluate {opened.folder}`")
    results = read_results_file(files.results)
    split, views = results["split"], results["protocol"].get("views", 1)  # where a view lies depends on their number
    index = read_json(files.pictures_index, dict[str, dict[str, Any]])
    recipe, recorded = opened.recipe, saved_manifest(opened, needs_files=False)
    if overrides:
        other = read_external_set(opened, recorded, overrides, unknown_classes="skip")
        recipe = recipe.model_copy(update={"data": other.data})
        tested = recorded = replace(other.manifest, splits=np.full(len(other.manifest), split))
    else:
        tested, recorded = saved_manifest(opened, data_root=data_root).for_split(split), recorded.for_split(split)
    position_of = {manifest.clip_name(row): row for manifest in (recorded, tested) for row in range(len(tested))}
    sheets = [path for path, entry in index.items() if "sheet" in entry and path in position_of]
    rows = np.array([position_of[path] for path in sheets], dtype=int)
    path_of = {tested.clip_name(position_of[path]): path for path in sheets}
    shown = tested.without(np.setdiff1d(np.arange(len(tested)), rows))
    model = load_model(opened).to(resolve_device(recipe.train.device))
    clip, packed = recipe.clip.model_copy(update={"size": model.size}), recipe.data.packed
    facts = manifest_facts(shown, packed, side=model.size)
    dataset = ClipDataset(shown, split, clip=clip, views=views, facts=facts, packed=packed)
    explained = 0
    for position, row in enumerate(dataset.rows):
        if progress is not None:
            progress(position + 1, len(dataset.rows))
        item, path = dataset[0, position], path_of[shown.clip_name(row)]
        if "clips" not in item:
            continue
        result, name = grad_cam(model, item["clips"][0]), sheet_file_name(path, "-cam")
        with atomic_file(files.pictures / name) as partial:
            partial.write_bytes(encode_jpeg(_sheet(item["clips"][0], result.heatmap_THW)))
        index[path] |= {"cam": name, "weights": _sheet_weights(result.weights_T, len(item["clips"][0]))}
        explained += 1
    write_json(files.pictures_index, index)
    return explained


def grad_cam(model: VideoClassifier, clip_TCHW: Tensor) -> GradCamResult:
    """Grad-CAM of one clip, uint8 (T, C, H, W), for the predicted class.

    Raises ModelError for a backbone without a feature map.
    """
    device, was_training = next(model.parameters()).device, model.training
    clips_BTCHW = clip_TCHW.unsqueeze(0).to(device)
    try:
        return _grad_cam(model.eval(), clips_BTCHW)
    finally:
        model.train(was_training)


def _grad_cam(model: VideoClassifier, clips_BTCHW: Tensor) -> GradCamResult:
    with torch.no_grad():
        map_shape = model.backbone.feature_map(clips_BTCHW).shape[2:]
    refusal = f"{model.settings.backbone}: has no layer with a spatial feature map that --explain can use"
    extra = map_shape[0] - _grid_side(map_shape[0]) ** 2
    # The tokens of a clip are of several time steps: 4 × 7 × 7 + 1 tokens are no 14 × 14 grid.
    if len(map_shape) == 2 and (extra > MAX_EXTRA_TOKENS or model.backbone.takes_clips):
        raise ModelError(refusal)
    with (
        torch.enable_grad(),
        _capture_feature_maps(model.backbone.net, tuple(map_shape)) as outputs,
        _attention_weights(model) as weights,
    ):
        logits_BK = model(clips_BTCHW)[model.primary]
        if not outputs:
            raise ModelError(refusal)
        gradients = torch.autograd.grad(logits_BK.max(), outputs, allow_unused=True)
    heat = None
    for output, gradient in reversed(list(zip(outputs, gradients, strict=True))):
        if gradient is None:
            continue
        values, gradient = (model.backbone.first_tower(rows, clips=1) for rows in (output.detach(), gradient))
        heat = _heatmap(values, gradient, tuple(map_shape), takes_clips=model.backbone.takes_clips)
        if heat.amax() > 0:
            break
    if heat is None:
        raise ModelError(refusal)
    heatmap_THW = heat / heat.amax().clamp_min(torch.finfo(heat.dtype).tiny)
    return GradCamResult(heatmap_THW.cpu(), None if not weights else weights[0].detach().mean(2)[0].cpu())


def _grid_side(tokens: int) -> int:
    """The side of the largest square grid that this many tokens fill."""
    return int(tokens**0.5)


@contextmanager
def _capture_feature_maps(net: nn.Module, shape: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """The outputs of all modules that have the shape of the feature map, in the order of the calls."""
    outputs: list[Tensor] = []

    def capture(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _matches_feature_map(output, shape):
            outputs.append(output)

    hooks = [module.register_forward_hook(capture) for module in net.modules()]
    was_trainable = [parameter.requires_grad for parameter in net.parameters()]
    for parameter in net.parameters():  # a frozen network has no graph to take gradients from
        parameter.requires_grad_(True)
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, trainable in zip(net.parameters(), was_trainable, strict=True):
            parameter.requires_grad_(trainable)


def _matches_feature_map(output: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether an output is (N, *shape), or for `shape` (C, h, w) also (N, h, w, C) or (N, C, T', h, w)."""
    item_shape = tuple(output.shape[1:])
    channels_last = len(shape) == 3 and item_shape == (*shape[1:], shape[0])
    over_time = len(shape) == 3 and output.ndim == 5 and (item_shape[0], *item_shape[2:]) == shape
    return item_shape == shape or channels_last or over_time


def _heatmap(output: Tensor, gradient: Tensor, shape: tuple[int, ...], *, takes_clips: bool) -> Tensor:
    """The Grad-CAM heat (T', h, w) of one layer: its channels, weighted by their mean gradient, summed."""
    if len(shape) == 2:  # tokens: class tokens and registers come first, then the square grid
        side = _grid_side(shape[0])
        output, gradient = (tokens[:, -side * side :] for tokens in (output, gradient))
        heat = (output * gradient.mean(1, keepdim=True)).sum(2).relu()
        return heat.unflatten(1, (side, side))
    if output.ndim == 5 and takes_clips:  # (1, C, T', h, w)
        return (output * gradient.mean((2, 3, 4), keepdim=True)).sum(1).relu()[0]
    channel_axis = 1 if tuple(output.shape[1:]) == shape else 3
    spatial_axes = (2, 3) if channel_axis == 1 else (1, 2)
    return (output * gradient.mean(spatial_axes, keepdim=True)).sum(channel_axis).relu()


@contextmanager
def _attention_weights(model: VideoClassifier) -> Iterator[list[Tensor]]:
    """The weights over time (B, T', heads) of attention pooling; nothing where the model pools in another way."""
    weights: list[Tensor] = []
    if not isinstance(model.temporal, AttentionPooling):
        yield weights
        return
    hook = model.temporal.register_forward_pre_hook(lambda pooling, inputs: weights.append(pooling.weights(*inputs)))
    try:
        yield weights
    finally:
        hook.remove()


def _sheet_weights(weights_T: Tensor | None, num_frames: int) -> list[float]:
    """The weights of the frames on the sheet; a frame has the weight of the network's time step that it is part of."""
    if weights_T is None:
        return []
    frame_weights = weights_T[(torch.arange(num_frames) * len(weights_T)) // num_frames]
    return [round(float(frame_weights[frame]), 4) for frame in sheet_frame_indices(num_frames)]


def _sheet(clip_TCHW: Tensor, heatmap_THW: Tensor) -> np.ndarray:
    """The contact sheet of a clip (T, C, H, W) with its heat map over it: uint8 (3, H, W)."""
    frames = sheet_frame_indices(len(clip_TCHW))
    small_TCHW = F.interpolate(clip_TCHW[frames].float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return make_sheet(draw_heatmap(small_TCHW, heatmap_THW, frames, num_frames=len(clip_TCHW)))


def draw_heatmap(frames_FCHW: Tensor, heatmap_THW: Tensor, positions: Sequence[int], *, num_frames: int) -> Tensor:
    """Frames (F, C, H, W) at `positions` in a clip of `num_frames`, with its heat (T', h, w) over them, uint8."""
    height, width = frames_FCHW.shape[2:]
    size = (num_frames, height, width)
    heat_THW = F.interpolate(heatmap_THW[None, None].float(), size, mode="trilinear", align_corners=False)[0, 0]
    heat_FHW = heat_THW[list(positions)]
    colours_FCHW = torch.from_numpy(colormaps["inferno"](heat_FHW.numpy())[..., :3] * 255).permute(0, 3, 1, 2)
    cover_F1HW = OVERLAY_OPACITY * heat_FHW[:, None].sqrt()
    shown = (1 - cover_F1HW) * frames_FCHW.float() + cover_F1HW * colours_FCHW
    return shown.round().clamp(0, 255).to(torch.uint8)
