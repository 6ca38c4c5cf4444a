"""Image and video networks of torchvision: built without classifier; stages follow the names of their modules."""

import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torchvision import models as tv
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.ops import StochasticDepth

from finetune.model.backbone.fetch_weights import load_or_explain_offline
from finetune.model.backbone.load_weights import StateDict
from finetune.model.backbone.network import InputSpec, Network, name_stages, set_drop_path, stages_by_name
from finetune.model.backbone.weights_source import WeightsSource

AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# Video networks whose output keeps a time axis, and how many frames become one time step.
TIME_STRIDES = {"r3d_18": 8, "mc3_18": 1, "r2plus1d_18": 8, "swin3d_t": 2, "swin3d_s": 2, "swin3d_b": 2}
TORCHVISION_NOTE = (
    "torchvision itself is under the BSD 3-Clause licence; it says that its pretrained models may have licences or "
    "terms of their own, from the data that they were trained on."
)
POOLING_OPS = (F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.avg_pool3d, Tensor.mean)


def torchvision_network(name: str, *, size: int | None, num_frames: int, drop_path: float) -> Network:
    """A network by its name `torchvision/<name>`, for pictures of `size` pixels, or clips of `num_frames` of them."""
    architecture = name.removeprefix("torchvision/")
    published = tv.get_model_weights(architecture).DEFAULT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # two models warn that their initialisation will change
        net = tv.get_model(architecture, weights=None, **_size_options(architecture, size))
    if isinstance(net, tv.MNASNet):
        net.__class__ = _MNASNet
    auxiliary = AUXILIARY_HEADS.get(architecture, ())
    for head in auxiliary:
        setattr(net, head, None)
        net.aux_logits = False
    set_drop_path(net, StochasticDepth, "p", drop_path)
    classifier, width = _remove_classifier(net, len(published.meta["categories"]))
    is_video = net.__module__.startswith("torchvision.models.video")
    if architecture in TIME_STRIDES:
        net.avgpool = nn.AdaptiveAvgPool3d((None, 1, 1))
    preset = published.transforms()
    if architecture.startswith("mvit"):
        _resize_mvit(net, size or preset.crop_size[0], num_frames)
    trained_frames = re.search(r"clip_len=(\d+)", published.meta.get("_docs", ""))
    return Network(
        net,
        width=width,
        spec=InputSpec(
            preset.crop_size[0],
            tuple(preset.mean),
            tuple(preset.std),
            preset.interpolation.value,
            int(trained_frames[1]) if trained_frames else None,
        ),
        stage_of=name_stages(net, stages_by_name(net)),
        feature_map=_feature_map,
        download=lambda: _download(name, published),
        published=published_source(published),
        head_prefixes=(classifier, *auxiliary),
        translate=_state_translator(architecture),
        takes_clips=is_video,
        time_stride=TIME_STRIDES.get(architecture) if is_video else 1,
        fixed_frames=architecture.startswith("mvit"),
    )


class _MNASNet(tv.MNASNet):
    """MNASNet that loads weights without version metadata, as safetensors files are; torchvision's own refuses them."""

    _load_from_state_dict = nn.Module._load_from_state_dict


def _size_options(architecture: str, size: int | None) -> dict[str, Any]:
    """Constructor arguments of architectures that are built for one input size."""
    if size is not None and architecture.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if size is not None and architecture.startswith("maxvit") else {}


def _state_translator(architecture: str) -> Callable[[StateDict, nn.Module], StateDict] | None:
    if architecture.startswith("vit_"):
        return lambda state, net: dict(interpolate_embeddings(net.image_size, net.patch_size, dict(state)))
    return _resample_positions if architecture.startswith("mvit") else None


def _resize_mvit(net: nn.Module, size: int, num_frames: int) -> None:
    """Resize position embeddings for clips of another size; MViTv2's relative ones are resampled in its forward."""
    places: Any = net.pos_encoding
    side = -(-size // 4)
    places.spatial_size, places.temporal_size = (side, side), -(-num_frames // 2)
    if places.spatial_pos is not None:
        places.spatial_pos = nn.Parameter(_resample_grid(places.spatial_pos.detach(), side))
        places.temporal_pos = nn.Parameter(_resample_time(places.temporal_pos.detach(), places.temporal_size))


def _resample_positions(state: StateDict, net: nn.Module) -> StateDict:
    places: Any = net.pos_encoding
    for name, table in state.items():
        if name.endswith("spatial_pos"):
            state[name] = _resample_grid(table, places.spatial_size[0])
        elif name.endswith("temporal_pos"):
            state[name] = _resample_time(table, places.temporal_size)
    return state


def _resample_time(positions_TD: Tensor, steps: int) -> Tensor:
    return F.interpolate(positions_TD.T[None], steps, mode="linear")[0].T


def _resample_grid(positions_ND: Tensor, side: int) -> Tensor:
    before = math.isqrt(len(positions_ND))
    grid_1DHW = positions_ND.T.unflatten(1, (before, before))[None]
    return F.interpolate(grid_1DHW, (side, side), mode="bicubic")[0].flatten(1).T


def _download(name: str, published: tv.WeightsEnum) -> tuple[str, StateDict]:
    load = partial(published.get_state_dict, progress=True, check_hash=True, weights_only=True)
    return published.url, load_or_explain_offline(name, published.url, load)


def published_source(published: tv.WeightsEnum) -> WeightsSource:
    """The source of torchvision's weights: a licence is stated for those of SWAG alone."""
    source: WeightsSource = {
        "source": "torchvision",
        "name": str(published),
        "url": published.url,
        "origin": published.meta["recipe"],
    }
    if "license" in published.meta:
        return {**source, "licence": published.meta["license"]}
    return {**source, "note": TORCHVISION_NOTE}


def _remove_classifier(net: nn.Module, num_classes: int) -> tuple[str, int]:
    """Replace the last layer with `num_classes` outputs by an identity. Returns its name and input width."""
    layers = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d) and _num_outputs(module) == num_classes
    ]
    name, layer = layers[-1]
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    return name, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _num_outputs(module: nn.Linear | nn.Conv2d | nn.Conv3d) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


class _CapturePrePooling(TorchFunctionMode):
    """Captures the input of the last spatial pooling, which is a function in some networks, and the last layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled: Tensor | None = None
        self.normed: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in POOLING_OPS and args[0].ndim > 3:
            self.pooled = args[0]
        elif func is F.layer_norm:
            self.normed = result
        return result


def _feature_map(net: nn.Module, pictures: Tensor) -> Tensor:
    with _CapturePrePooling() as captured:
        net.forward(pictures)  # not net(): inside a compiled network nothing can be captured
    features = captured.pooled if captured.pooled is not None else captured.normed
    assert features is not None, type(net)
    return features
