"""Fusion: how an image backbone mixes the frames of a clip, before temporal pooling.

late        not at all: each frame alone (Karpathy's late fusion of two distant frames is `temporal: concat`, T = 2)
early       the first convolution takes all frames, stacked as channels (Karpathy et al. 2014)
slow        between some stages two adjacent frames are merged into one (Karpathy et al. 2014)
tsm         each residual block takes 1/8 of its channels from the next frame, 1/8 from the previous (arXiv:1811.08383)
grey_stack  three successive frames in grey are the red, green and blue of one picture (arXiv:2201.10394)
two_stream  of three successive frames the network sees the middle one in colour and their grey stack; the features of
            both are concatenated (two streams, arXiv:1406.2199, here with grey stacks instead of optical flow and one
            network for both)

All use the pretrained weights. Under early and slow fusion a clip of equal frames starts with the features of its
frame; tsm, grey_stack and two_stream change no weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError

# The first module of a block's residual branch, and the attribute, if any, that says whether the block has a skip.
RESIDUAL: dict[str, tuple[str, str | None]] = {
    "timm.models.resnet.BasicBlock": ("conv1", None),
    "timm.models.resnet.Bottleneck": ("conv1", None),
    "timm.models.regnet.Bottleneck": ("conv1", None),
    "timm.models.convnext.ConvNeXtBlock": ("conv_dw", None),
    "timm.models._efficientnet_blocks.DepthwiseSeparableConv": ("conv_dw", "has_skip"),
    "timm.models._efficientnet_blocks.InvertedResidual": ("conv_pw", "has_skip"),
    "timm.models._efficientnet_blocks.EdgeResidual": ("conv_exp", "has_skip"),
    "torchvision.models.resnet.BasicBlock": ("conv1", None),
    "torchvision.models.resnet.Bottleneck": ("conv1", None),
    "torchvision.models.regnet.ResBottleneckBlock": ("f", None),
    "torchvision.models.convnext.CNBlock": ("block", None),
    "torchvision.models.mobilenetv2.InvertedResidual": ("conv", "use_res_connect"),
    "torchvision.models.mobilenetv3.InvertedResidual": ("block", "use_res_connect"),
    "torchvision.models.efficientnet.MBConv": ("block", "use_res_connect"),
    "torchvision.models.efficientnet.FusedMBConv": ("block", "use_res_connect"),
}
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue; source: ITU-R BT.601
STACKED_FRAMES = 3  # frames in a grey stack, one per channel of a picture
SHIFT_DIVISOR = 8  # 1/8 of the channels is shifted each way


@dataclass
class FrameCount:
    """T of the current batch, for modules inside a network, which see only B T pictures."""

    count: int


def stack_grey_frames(clips_BTCHW: Tensor) -> Tensor:
    """Grey stacks (B, ceil(T / 3), 3, H, W): channel c of picture t is frame 3 t + c in grey.

    Takes RGB clips (B, T, 3, H, W) of floats and keeps their scale. If T is not a multiple of 3, the last frame is
    repeated. Where nothing moves, the three channels are equal. Source: GrayST, arXiv:2201.10394.
    """
    red, green, blue = GREY_WEIGHTS
    grey_BTHW = clips_BTCHW[:, :, 0] * red + clips_BTCHW[:, :, 1] * green + clips_BTCHW[:, :, 2] * blue
    missing = -grey_BTHW.shape[1] % STACKED_FRAMES
    padded_BTHW = torch.cat([grey_BTHW, *[grey_BTHW[:, -1:]] * missing], 1)
    return padded_BTHW.unflatten(1, (-1, STACKED_FRAMES))


def colour_and_grey_stacks(clips_BTCHW: Tensor) -> Tensor:
    """For each three frames the middle one, and their grey stack: (B, 2 ceil(T / 3), 3, H, W), in turn."""
    grey_BTCHW = stack_grey_frames(clips_BTCHW)
    middles = [min(STACKED_FRAMES * step + 1, clips_BTCHW.shape[1] - 1) for step in range(grey_BTCHW.shape[1])]
    return torch.stack([clips_BTCHW[:, middles], grey_BTCHW], 2).flatten(1, 2)


# What the network sees of a clip (B, T, C, H, W), where that is not its frames.
PICTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "grey_stack": stack_grey_frames,
    "two_stream": colour_and_grey_stacks,
}


class TemporalShift:
    """Temporal shift: of a module's input (B T, C, H, W) 1/8 of the channels moves one frame back, 1/8 one on.

    x'_t = (x_{t+1}[: C/8], x_{t-1}[C/8 : C/4], x_t[C/4 :]), with zeros beyond the clip's ends. A forward pre-hook.
    Source: TSM, arXiv:1811.08383.
    """

    def __init__(self, frames: FrameCount) -> None:
        self.frames = frames

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        pictures = inputs[0]
        shifted = torch.zeros_like(pictures)  # zeros, not copies of the end frames, are shifted in
        before_BTCHW, after_BTCHW = (x.unflatten(0, (-1, self.frames.count)) for x in (pictures, shifted))
        fold = pictures.shape[1] // SHIFT_DIVISOR
        after_BTCHW[:, :-1, :fold] = before_BTCHW[:, 1:, :fold]
        after_BTCHW[:, 1:, fold : 2 * fold] = before_BTCHW[:, :-1, fold : 2 * fold]
        after_BTCHW[:, :, 2 * fold :] = before_BTCHW[:, :, 2 * fold :]
        return (shifted, *inputs[1:])


class FrameMerge(nn.Module):
    """Merges adjacent frames, (1/2 + w_0) x_{2t} + (1/2 + w_1) x_{2t+1}, with weights w per channel that start at 0.

    (B T, ...) with C channels on `axis` to (B ceil(T / 2), ...); with an odd T the last frame is repeated.
    Source: slow fusion, Karpathy et al. 2014.
    """

    def __init__(self, width: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.change = nn.Parameter(torch.zeros(2, width))

    def forward(self, pictures: Tensor, num_frames: int) -> Tensor:
        """(B T, ...) of clips with T = `num_frames` to (B ceil(T / 2), ...)."""
        frames = pictures.unflatten(0, (-1, num_frames))
        if num_frames % 2:
            frames = torch.cat([frames, frames[:, -1:]], 1)
        weights = (0.5 + self.change).to(pictures.dtype)
        shape = [-1 if axis == self.axis else 1 for axis in range(1, pictures.ndim)]
        first, second = (weight.view(shape) for weight in weights)
        return (frames[:, 0::2] * first + frames[:, 1::2] * second).flatten(0, 1)


class FrameMergeHook:
    """A forward pre-hook that merges the input of a module, after `earlier` merges have halved the frames."""

    def __init__(self, merge: FrameMerge, frames: FrameCount, earlier: int) -> None:
        self.merge, self.frames, self.earlier = merge, frames, earlier

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        num_frames = -(-self.frames.count // 2**self.earlier)
        return (self.merge(inputs[0], num_frames), *inputs[1:])


def unchanged(net: nn.Module, frames: FrameCount, stages: list[str], size: int) -> nn.ModuleList:
    """Leave the network as it is: frames are not mixed, or in its input alone."""
    return nn.ModuleList()


def early_fusion(net: nn.Module, frames: FrameCount, stages: list[str], size: int) -> nn.ModuleList:
    """Make the first convolution take all T frames as channels: its weights, divided by T, for each frame."""
    conv = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    # Other convolutions, such as NFNet's, standardise their weights and would undo the division.
    if conv is None or conv.in_channels != 3 or type(conv).__name__ not in {"Conv2d", "Conv2dSame"}:
        raise ModelError(
            "model.fusion 'early' needs a backbone that begins with a plain convolution; set model.fusion to late"
        )
    conv.weight = nn.Parameter(conv.weight.detach().repeat(1, frames.count, 1, 1) / frames.count)
    conv.in_channels *= frames.count
    return nn.ModuleList()


def slow_fusion(net: nn.Module, frames: FrameCount, stages: list[str], size: int) -> nn.ModuleList:
    """Merge adjacent frames between stages, evenly spread over the network, until one frame or no stage is left."""
    borders = _stage_inputs(net, stages, size)
    count = min((frames.count - 1).bit_length(), len(borders))
    if count == 0:
        raise ModelError(
            "model.fusion 'slow' needs clips of two frames or more and a backbone whose stages follow one another; "
            f"there are {frames.count} frames and {len(borders)} places between stages"
        )
    merges = nn.ModuleList()
    for index in range(count):
        name, width, axis = borders[(index + 1) * len(borders) // (count + 1)]
        merge = FrameMerge(width, axis)
        net.get_submodule(name).register_forward_pre_hook(FrameMergeHook(merge, frames, index))
        merges.append(merge)
    return merges


def temporal_shift(net: nn.Module, frames: FrameCount, stages: list[str], size: int) -> nn.ModuleList:
    """Shift channels at the start of residual branches; the skip connections keep each frame's own features."""
    has_blocks = False
    for module in net.modules():
        where, skip = RESIDUAL.get(f"{type(module).__module__}.{type(module).__qualname__}", (None, None))
        if where is not None and (skip is None or getattr(module, skip)):
            module.get_submodule(where).register_forward_pre_hook(TemporalShift(frames))
            has_blocks = True
    if not has_blocks:
        raise ModelError(
            "model.fusion 'tsm' works with ResNet, ResNeXt, RegNet, MobileNet, EfficientNet and ConvNeXt of timm "
            f"and torchvision; this {type(net).__name__} has none of their residual blocks"
        )
    return nn.ModuleList()


FUSIONS: dict[str, Callable[[nn.Module, FrameCount, list[str], int], nn.ModuleList]] = {
    "late": unchanged,
    "early": early_fusion,
    "slow": slow_fusion,
    "tsm": temporal_shift,
    "grey_stack": unchanged,
    "two_stream": unchanged,
}


def _stage_inputs(net: nn.Module, stages: list[str], size: int) -> list[tuple[str, int, int]]:
    """Modules that begin a stage, in the order of their calls: name, number of input channels, and their axis."""
    inputs_of_stages: list[tuple[str, int, int]] = []
    modules = dict(net.named_modules())
    handles = []
    for stage in (name for name in stages[1:] if name in modules):

        def note(module: nn.Module, inputs: tuple[Any, ...], name: str = stage) -> None:
            shape = tuple(inputs[0].shape) if isinstance(inputs[0], Tensor) else ()
            # (N, L, C), (N, H, W, C) or (N, C, H, W), with H = W.
            if len(shape) in {3, 4} and shape[0] == 1:
                axis = 2 if len(shape) == 3 else 3 if shape[1] == shape[2] != shape[3] else 1
                inputs_of_stages.append((name, shape[axis], axis))

        handles.append(modules[stage].register_forward_pre_hook(note))
    training = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    net.train(training)
    for handle in handles:
        handle.remove()
    return inputs_of_stages
