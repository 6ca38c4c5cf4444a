"""Pretrained backbones of timm and torchvision behind one interface: clips in, features over time out."""

import socket
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import huggingface_hub.constants
import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.models import group_parameters
from torch import Tensor, nn
from torchvision import models as tv

from finetune.errors import ModelError, nearest
from finetune.model.names import BUNDLED, bundled_names, check_name
from finetune.model.weights import State, load_weights, local_file, read_weights

# Children that hold a network's parts one after the other: each part is a stage.
CONTAINERS = ("features", "blocks", "encoder.layers")
AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
NEW_STAGES = ("temporal", "head", "all")


@dataclass(frozen=True)
class InputSpec:
    """What the backbone was trained on: `size` in pixels a side, mean and std of RGB in 0…1."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Backbone(nn.Module):
    """Normalises uint8 clips (B, T, C, H, W) and gives their features (B, T', D).

    An image backbone sees each frame alone, and T' is T; a video backbone sees the clip, and T' is 1.
    `stage_of` names the stage of each parameter of `net`, in order from input to output.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, *, width: int, spec: InputSpec, stage_of: dict[str, str], takes_clips: bool
    ) -> None:
        super().__init__()
        # Channels last is the layout that convolutions are fastest in, on CPUs and GPUs alike.
        self.layout = torch.channels_last_3d if takes_clips else torch.channels_last
        self.net = net.to(memory_format=self.layout)
        self.width = width
        self.spec = spec
        self.stage_of = stage_of
        self.takes_clips = takes_clips
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 1, 3, 1, 1) * 255, persistent=False)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        pictures = (clips_BTCHW.to(self.mean.dtype) - self.mean) / self.std
        if self.takes_clips:
            return self.net(pictures.transpose(1, 2).contiguous(memory_format=self.layout)).unsqueeze(1)
        frames_NCHW = pictures.flatten(0, 1).contiguous(memory_format=self.layout)
        return self.net(frames_NCHW).unflatten(0, clips_BTCHW.shape[:2])


def build_backbone(name: str, *, weights: str = "imagenet", size: int | None = None) -> Backbone:
    """A backbone by its timm name (`resnet50.a1_in1k`) or as `torchvision/<name>`, its classifier removed.

    `weights`: `imagenet` (a video model's own: Kinetics), `bundled`, `none`, or a file. `imagenet` takes
    `<name>.safetensors` from $FINETUNE_WEIGHTS, else the library's cache, else downloads. `size` is the side of
    the pictures in pixels, for architectures that are built for one size. Raises ModelError.
    """
    check_name(name)
    build = _torchvision if name.startswith("torchvision/") else _timm
    return build(name, weights, size)


def _timm(name: str, weights: str, size: int | None) -> Backbone:
    net: Any
    try:
        net = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ModelError(f"model.backbone {name!r}: {error}{nearest(name, tags)}") from None
    config = net.pretrained_cfg
    if size not in (None, config["input_size"][-1]) and config.get("fixed_input_size"):
        net = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    heads = config.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    if weights != "none":
        file, state = _find(name, weights, lambda: _timm_download(name, config))
        module = sys.modules[type(net).__module__]
        load_weights(
            net,
            state,
            where=file,
            head_prefixes=heads,
            translate=getattr(module, "checkpoint_filter_fn", None),
        )
    return Backbone(
        net,
        width=getattr(net, "head_hidden_size", None) or net.num_features,
        spec=InputSpec(config["input_size"][-1], tuple(config["mean"]), tuple(config["std"])),
        stage_of=_timm_stages(net),
        takes_clips=False,
    )


def _torchvision(name: str, weights: str, size: int | None) -> Backbone:
    architecture = name.removeprefix("torchvision/")
    published = tv.get_model_weights(architecture).DEFAULT
    fixed_size = {"image_size": size} if size and architecture.startswith("vit_") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # two models announce another initialisation
        net = tv.get_model(architecture, weights=None, **fixed_size)
    auxiliary = AUXILIARY_HEADS.get(architecture, ())
    for head in auxiliary:
        setattr(net, head, None)
        net.aux_logits = False
    classifier, width = _remove_classifier(net, len(published.meta["categories"]))
    if weights != "none":
        file, state = _find(name, weights, lambda: _torchvision_download(name, published))
        load_weights(net, state, where=file, head_prefixes=(classifier, *auxiliary))
    preset = published.transforms()
    return Backbone(
        net,
        width=width,
        spec=InputSpec(preset.crop_size[0], tuple(preset.mean), tuple(preset.std)),
        stage_of=_torchvision_stages(net),
        takes_clips=net.__module__.startswith("torchvision.models.video"),
    )


def _find(name: str, weights: str, download: Callable[[], tuple[str, State]]) -> tuple[str, State]:
    """Where the weights came from, and they."""
    if weights == "imagenet":
        file = local_file(name)
        return (str(file), read_weights(file)) if file else download()
    if weights == "bundled":
        if name not in bundled_names():
            raise ModelError(f"model.weights 'bundled': {name!r} is not bundled; {', '.join(bundled_names())} is")
        return "bundled weights", read_weights(BUNDLED / f"{name}.safetensors")
    return weights, read_weights(Path(weights))


def _timm_download(name: str, config: dict) -> tuple[str, State]:
    repository, url = config.get("hf_hub_id") or "", config.get("url") or ""
    if not repository and not url:
        raise ModelError(f"model.weights 'imagenet': timm has no pretrained weights for {name!r}; take another tag")
    if not repository:
        return url, _offline_in_words(name, url, lambda: torch.hub.load_state_dict_from_url(url, weights_only=True))
    where = f"https://huggingface.co/{repository}"
    return where, _offline_in_words(name, where, lambda: read_weights(_from_hub(repository)))


def _from_hub(repository: str, file: str = "model.safetensors") -> Path:
    """The file in the hub's cache, downloaded if need be; without the network this fails at once, not after retries."""
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    if not getproxies():
        endpoint = urlparse(huggingface_hub.constants.ENDPOINT)
        socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)
    return Path(hf_hub_download(repository, file))


def _torchvision_download(name: str, published: tv.WeightsEnum) -> tuple[str, State]:
    return published.url, _offline_in_words(
        name,
        published.url,
        lambda: published.get_state_dict(progress=True, check_hash=True, weights_only=True),
    )


def _offline_in_words(name: str, where: str, load: Callable[[], State]) -> State:
    try:
        return load()
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        file = "model.safetensors" if urlparse(where).netloc == "huggingface.co" else where.rpartition("/")[2]
        raise ModelError(
            f"the weights of {name!r} are neither on this machine nor could they be downloaded "
            f"({type(error).__name__}).\nFetch {file} from {where} and set model.weights=FILE to it, or put it as "
            f"{name}.safetensors into a folder and set FINETUNE_WEIGHTS to that folder."
        ) from None


def _timm_stages(net: Any) -> dict[str, str]:
    groups: dict[str, Any] = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    named: dict[str, Any] = {name: groups[name] for name, _ in net.named_parameters()}
    from_input_to_output = sorted(named.items(), key=lambda item: item[1])
    return _name_stages(dict(from_input_to_output))


def _torchvision_stages(net: nn.Module) -> dict[str, str]:
    groups: dict[str, str] = {}
    modules = dict(net.named_modules())
    at_start = True
    for name, _ in net.named_parameters():
        container = next((c for c in CONTAINERS if name.startswith(f"{c}.")), None)
        depth = 1 if container is None else container.count(".") + 2
        group = ".".join(name.split(".")[:depth])
        # Layers that stand alone before the first container are the stem.
        alone = container is None and not list(modules.get(group, nn.Identity()).children())
        at_start = at_start and (alone or name.endswith("pos_embedding"))
        groups[name] = "stem" if at_start else group
    return _name_stages(groups)


def _name_stages(groups: Mapping[str, object]) -> dict[str, str]:
    """The stage of each parameter: the first is the `stem`, others have the shortest prefix that is theirs alone."""
    order = list(dict.fromkeys(groups.values()))
    names = {order[0]: "stem"}
    for group in order[1:]:
        first = next(name for name, other in groups.items() if other == group).split(".")
        others = [name for name, other in groups.items() if other != group]
        prefixes = [".".join(first[:length]) for length in range(1, len(first) + 1)]
        names[group] = next(
            prefix
            for prefix in prefixes
            if prefix not in NEW_STAGES and not any(f"{name}.".startswith(f"{prefix}.") for name in others)
        )
    return {name: names[group] for name, group in sorted(groups.items(), key=lambda item: order.index(item[1]))}


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


def stage_names(backbone: Backbone) -> Sequence[str]:
    """Names of the backbone's stages, from input to output."""
    return list(dict.fromkeys(backbone.stage_of.values()))
