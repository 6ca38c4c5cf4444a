"""Where a model looked: Grad-CAM heat maps over the clips that a report shows, and the weights of attention pooling.

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
from finetune.model.classifier import VideoClassifier
from finetune.model.temporal_pooling import AttentionPooling
from finetune.run.checkpoint import load_model
from finetune.run.folder import EvaluationFolder, RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run, read_results_file
from finetune.runtime.device import resolve_device
from finetune.storage.atomic import atomic_file, write_json
from finetune.storage.safe_read import read_json
from finetune.video.dataset import ClipDataset
from finetune.video.encode import encode_jpeg
from finetune.video.pack.read import manifest_facts

OVERLAY_OPACITY = 0.8  # of the colour over the hottest place of a frame
MAX_EXTRA_TOKENS = 8  # for the class, and registers


class GradCamResult(NamedTuple):
    """Heat (T, h, w) from 0 to 1, the maximum of the clip; and the weights (T,) of attention pooling, else None."""

    heatmap_THW: Tensor
    weights_T: Tensor | None


def explain(
    run: str | Path, overrides: Sequence[str] = (), *, evaluation: Path | None = None, data_root: Path | None = None
) -> int:
    """Add where the model looked to the pictures of an evaluation, by default of the test; how many clips there are.

    `overrides` name the other set that it is of, and `data_root` is where the run's files are now, as for `evaluate`.
    Raises RunError where the evaluation kept no pictures, and ModelError for a backbone without a map of places.
    """
    opened = open_run(run)
    files = RunFolder(opened.folder).evaluation() if evaluation is None else EvaluationFolder(evaluation)
    if not files.pictures_index.is_file():
        raise RunError(f"{files.path}: has no frames; write them with `finetune evaluate {run}`")
    results = read_results_file(files.results)
    split, views = results["split"], results["protocol"].get("views", 1)  # which views there are depends on it
    index = read_json(files.pictures_index, dict[str, dict[str, Any]])
    recipe, recorded = opened.recipe, saved_manifest(opened, needs_files=False)
    if overrides:
        other = read_external_set(opened, recorded, overrides, skip_unknown=True)
        recipe = recipe.model_copy(update={"data": other.data})
        tested = recorded = replace(other.manifest, splits=np.full(len(other.manifest), split))
    else:
        tested, recorded = saved_manifest(opened, data_root=data_root).for_split(split), recorded.for_split(split)
    position_of = {str(manifest.path(row)): row for manifest in (recorded, tested) for row in range(len(tested))}
    rows = np.array([position_of[path] for path in index if path in position_of], dtype=int)
    path_of = {str(tested.path(position_of[path])): path for path in index if path in position_of}
    shown = tested.without(np.setdiff1d(np.arange(len(tested)), rows))
    model = load_model(opened).to(resolve_device(recipe.train.device))
    clip, packed = recipe.clip.model_copy(update={"size": model.size}), recipe.data.packed
    facts = manifest_facts(shown, packed, side=model.size)
    dataset = ClipDataset(shown, split, clip=clip, views=views, facts=facts, packed=packed)
    explained = 0
    for position, row in enumerate(dataset.rows):
        item, path = dataset[position], path_of[str(shown.path(row))]
        if "clips" not in item:
            continue
        looked, name = grad_cam(model, item["clips"][0]), sheet_file_name(path, "-cam")
        with atomic_file(files.pictures / name) as partial:
            partial.write_bytes(encode_jpeg(_sheet(item["clips"][0], looked.heatmap_THW)))
        index[path] |= {"cam": name, "weights": _sheet_weights(looked.weights_T, len(item["clips"][0]))}
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
    refusal = f"{model.settings.backbone}: has no layer that knows of places in a way that --explain knows"
    extra = map_shape[0] - _grid_side(map_shape[0]) ** 2
    # Tokens of a clip are of several moments: 4 times 7 by 7 and one are not 14 by 14.
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
    for output, gradient in reversed(list(zip(outputs, gradients, strict=True))):
        if gradient is None:
            continue
        values, gradient = (model.backbone.first_tower(rows, clips=1) for rows in (output.detach(), gradient))
        heat = _heatmap(values, gradient, tuple(map_shape), takes_clips=model.backbone.takes_clips)
        if heat.amax() > 0:
            return GradCamResult(
                (heat / heat.amax()).cpu(), None if not weights else weights[0].detach().mean(2)[0].cpu()
            )
    raise ModelError(refusal)


def _grid_side(tokens: int) -> int:
    """Of the largest square of tokens."""
    return int(tokens**0.5)


@contextmanager
def _capture_feature_maps(net: nn.Module, shape: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """The outputs, in running order, of all modules that give what has the shape of the feature map."""
    found: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _matches_feature_map(output, shape):
            found.append(output)

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    learns = [parameter.requires_grad for parameter in net.parameters()]
    for parameter in net.parameters():  # a frozen network would else keep no graph
        parameter.requires_grad_(True)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, learned in zip(net.parameters(), learns, strict=True):
            parameter.requires_grad_(learned)


def _matches_feature_map(output: Tensor, shape: tuple[int, ...]) -> bool:
    of_one = tuple(output.shape[1:])
    channels_last = len(shape) == 3 and of_one == (*shape[1:], shape[0])
    over_time = len(shape) == 3 and output.ndim == 5 and (of_one[0], *of_one[2:]) == shape
    return of_one == shape or channels_last or over_time


def _heatmap(output: Tensor, gradient: Tensor, shape: tuple[int, ...], *, takes_clips: bool) -> Tensor:
    """The Grad-CAM heat (T', h, w) of one layer: its channels, weighted by their mean gradient, summed."""
    if len(shape) == 2:  # tokens: what is no square of places comes first, as class tokens
        side = _grid_side(shape[0])
        output, gradient = (each[:, -side * side :] for each in (output, gradient))
        heat = (output * gradient.mean(1, keepdim=True)).sum(2).relu()
        return heat.unflatten(1, (side, side))
    if output.ndim == 5 and takes_clips:  # (1, C, T', h, w)
        return (output * gradient.mean((2, 3, 4), keepdim=True)).sum(1).relu()[0]
    channels = 1 if tuple(output.shape[1:]) == shape else 3
    places = (2, 3) if channels == 1 else (1, 2)
    return (output * gradient.mean(places, keepdim=True)).sum(channels).relu()


@contextmanager
def _attention_weights(model: VideoClassifier) -> Iterator[list[Tensor]]:
    """The weights over time (B, T', heads) that attention pooling gives, if that is what pools."""
    found: list[Tensor] = []
    if not isinstance(model.temporal, AttentionPooling):
        yield found
        return
    hook = model.temporal.register_forward_pre_hook(lambda pooling, inputs: found.append(pooling.weights(*inputs)))
    try:
        yield found
    finally:
        hook.remove()


def _sheet_weights(weights_T: Tensor | None, num_frames: int) -> list[float]:
    """Of the frames that are on the sheet; a step of the network stands for the frames that made it."""
    if weights_T is None:
        return []
    of_frames = weights_T[(torch.arange(num_frames) * len(weights_T)) // num_frames]
    return [round(float(of_frames[frame]), 4) for frame in sheet_frame_indices(num_frames)]


def _sheet(clip_TCHW: Tensor, heatmap_THW: Tensor) -> np.ndarray:
    """The contact sheet of a clip (T, C, H, W) with its heat map over it: uint8 (3, H, W)."""
    frames = sheet_frame_indices(len(clip_TCHW))
    small_TCHW = F.interpolate(clip_TCHW[frames].float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    heat = heatmap_THW[None, None].float()
    heatmap_THW = F.interpolate(heat, (len(clip_TCHW), SIDE, SIDE), mode="trilinear", align_corners=False)[0, 0][frames]
    colours_TCHW = torch.from_numpy(colormaps["inferno"](heatmap_THW.numpy())[..., :3] * 255).permute(0, 3, 1, 2)
    cover_T1HW = OVERLAY_OPACITY * heatmap_THW[:, None].sqrt()
    shown = (1 - cover_T1HW) * small_TCHW + cover_T1HW * colours_TCHW
    return make_sheet(shown.round().clamp(0, 255).to(torch.uint8))
