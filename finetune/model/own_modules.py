"""The user's own modules as parts of a model: copied or built, run once, and refused in words where they do not fit."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.load_weights import StateDict
from finetune.model.backbone.network import InputSpec, Network, name_stages, stages_by_name
from finetune.recipe.own_parts import part_name, require_object

DEFAULT_SIZE = 224  # pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def own_pooling(part: Any, width: int, num_frames: int) -> tuple[nn.Module, int]:
    """A pooling from (B, T, D) to (B, W), and W. A class or function is called with D and T."""
    pooling = _build(part, (width, num_frames), key="model.temporal")
    return pooling, _run_once(pooling, (2, num_frames, width), key="model.temporal").shape[1]


def own_head(part: Any, width: int, outputs: int) -> nn.Module:
    """A head from (B, D) to (B, K). A class or function is called with D and K."""
    head = _build(part, (width, outputs), key="model.head")
    shape = _run_once(head, (2, width), key="model.head").shape
    if shape[1] != outputs:
        raise ModelError(f"model.head: {part_name(part)} gives {shape[1]} numbers for a clip, not {outputs}")
    return head


def own_network(part: Any, size: int | None) -> Network:
    """A backbone from pictures (N, 3, H, W) to features (N, D). A class or function is called without arguments."""
    net = _build(part, (), key="model.backbone")
    if not next(net.parameters(), torch.empty(0)).numel():
        raise ModelError(f"model.backbone: {part_name(part)} has no parameters")
    side = size or DEFAULT_SIZE
    width = _run_once(net, (2, 3, side, side), key="model.backbone").shape[1]
    return Network(
        net,
        width=width,
        spec=InputSpec(side, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
        stage_of=name_stages(net, stages_by_name(net)),
        feature_map=_no_feature_map,
        download=_no_download,
        published={"source": "own"},
        head_prefixes=(),
    )


def _build(part: Any, arguments: Sequence[Any], *, key: str) -> nn.Module:
    """A copy of a module, so that training leaves the user's one alone, or what a class or function makes."""
    part = require_object(part, key)
    try:
        module = copy.deepcopy(part) if isinstance(part, nn.Module) else part(*arguments)
    except Exception as error:  # whatever the user's code raises
        call = f"{part_name(part)}({', '.join(map(str, arguments))})"
        raise ModelError(f"{key}: {call} fails: {_reason(error)}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{key}: {part_name(part)} makes no nn.Module, but {type(module).__name__}")
    return module


def _run_once(module: nn.Module, shape: Sequence[int], *, key: str) -> Tensor:
    """The output (N, D) for zeros of a shape; modules with lazy parameters have them afterwards."""
    name = part_name(module)
    try:
        with torch.no_grad():
            output = module.eval()(torch.zeros(*shape))
    except Exception as error:  # whatever the user's code raises
        raise ModelError(f"{key}: {name} fails for an input of shape {tuple(shape)}: {_reason(error)}") from error
    module.train()
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != shape[0]:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"{key}: {name} gives {given} for an input of shape {tuple(shape)}, not ({shape[0]}, D)")
    names = dict(module.named_parameters(remove_duplicate=False))
    if shared := sorted(set(names) - set(dict(module.named_parameters()))):
        raise ModelError(f"{key}: {name} has the parameter {shared[0]} under two names, so it cannot be saved")
    return output


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _no_feature_map(net: nn.Module, pictures_NCHW: Tensor) -> Tensor:
    """Raises ModelError: where an own network (N, C, H, W) has its feature map is unknown."""
    raise ModelError(f"model.backbone: {part_name(net)} is your own; its feature map is not known")


def _no_download() -> tuple[str, StateDict]:
    raise ModelError("model.weights: your own backbone has the weights that it comes with; or name a file")
