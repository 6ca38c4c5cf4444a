"""Networks of torchvision, of images and of video: built without their classifier, cut into stages by their names."""

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

from finetune.model.fetch import offline_in_words
from finetune.model.network import InputSpec, Network, name_stages, set_drop_path, stages_by_name
from finetune.model.weights import State

AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# Video networks that keep an axis of time to the end, and how many frames become one step on it.
TIME_STRIDES = {"r3d_18": 8, "mc3_18": 1, "r2plus1d_18": 8, "swin3d_t": 2, "swin3d_s": 2, "swin3d_b": 2}
POOLS = (F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.avg_pool3d, Tensor.mean)


def torchvision_network(name: str, *, size: int | None, num_frames: int, drop_path: float) -> Network:
    """A network by its name `torchvision/<name>`, for pictures of `size` or clips of `num_frames` of them."""
    architecture = name.removeprefix("torchvision/")
    published = tv.get_model_weights(architecture).DEFAULT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # two models announce another initialisation
        net = tv.get_model(architecture, weights=None, **_sized(architecture, size, num_frames))
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
    trained_frames = re.search(r"clip_len=(\d+)", published.meta["_docs"])
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
        head_prefixes=(classifier, *auxiliary),
        translate=_translation(architecture),
        takes_clips=is_video,
        time_stride=TIME_STRIDES.get(architecture) if is_video else 1,
        fixed_frames=architecture.startswith("mvit"),
    )


def _sized(architecture: str, size: int | None, num_frames: int) -> dict[str, Any]:
    """What the architectures that are built for one size take it by."""
    if architecture.startswith("mvit"):
        return {"spatial_size": (size or 224,) * 2, "temporal_size": num_frames}
    if size is not None and architecture.startswith("vit_"):
        return {"image_size": size}
    if size is not None and architecture.startswith("maxvit"):
        return {"input_size": (size, size)}
    return {}


def _translation(architecture: str) -> Callable[[State, nn.Module], State] | None:
    if architecture.startswith("vit_"):
        return lambda state, net: dict(interpolate_embeddings(net.image_size, net.patch_size, dict(state)))
    return _resample_mvit if architecture.startswith("mvit") else None


def _resample_mvit(state: State, net: nn.Module) -> State:
    """Positions of another size or number of frames, read off between those that were learnt."""
    for name, wanted in net.state_dict().items():
        if name not in state or state[name].shape == wanted.shape:
            continue
        if name.endswith("spatial_pos"):
            before, after = (round(len(table) ** 0.5) for table in (state[name], wanted))
            grid_1CHW = state[name].T.unflatten(1, (before, before))[None]
            grid_1CHW = F.interpolate(grid_1CHW, (after, after), mode="bicubic", align_corners=False)
            state[name] = grid_1CHW[0].flatten(1).T
        elif name.endswith(("temporal_pos", "rel_pos_h", "rel_pos_w", "rel_pos_t")):
            state[name] = F.interpolate(state[name].T[None], len(wanted), mode="linear")[0].T
    return state


def _download(name: str, published: tv.WeightsEnum) -> tuple[str, State]:
    load = partial(published.get_state_dict, progress=True, check_hash=True, weights_only=True)
    return published.url, offline_in_words(name, published.url, load)


def _remove_classifier(net: nn.Module, num_classes: int) -> tuple[str, int]:
    """Replace the last layer that gives `num_classes` outputs by nothing; its name and the width that enters it."""
    layers = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d) and _outputs(module) == num_classes
    ]
    name, layer = layers[-1]
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    return name, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _outputs(module: nn.Linear | nn.Conv2d | nn.Conv3d) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


class _BeforePooling(TorchFunctionMode):
    """Keeps what entered the last pooling over space, which not all networks have as a module, else the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled: Tensor | None = None
        self.normed: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in POOLS and args[0].ndim > 3:
            self.pooled = args[0]
        elif func is F.layer_norm:
            self.normed = result
        return result


def _feature_map(net: nn.Module, pictures: Tensor) -> Tensor:
    with _BeforePooling() as kept:
        net.forward(pictures)  # not net(): a compiled network shows nothing of its inside
    features = kept.pooled if kept.pooled is not None else kept.normed
    assert features is not None, type(net)
    return features
