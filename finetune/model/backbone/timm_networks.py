"""Networks of timm: built without classifier; stages are timm's own groups of layers."""

import sys
from typing import Any

import timm
import torch
from timm.layers import DropPath, convert_sync_batchnorm
from timm.models import group_parameters
from torch import Tensor, nn

from finetune.errors import ModelError, suggest_similar
from finetune.model.backbone.fetch_weights import download_from_hub, load_or_explain_offline
from finetune.model.backbone.load_weights import StateDict, read_weights
from finetune.model.backbone.network import InputSpec, Network, name_stages, set_drop_path, stages_by_name
from finetune.model.backbone.weights_source import WeightsSource


def timm_network(name: str, *, size: int | None, drop_path: float) -> Network:
    """A network by its timm name, for pictures of `size` pixels.

    Raises ModelError for an unknown tag; a wrong size raises errors of timm.
    """
    try:
        pretrained: Any = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ModelError(f"model.backbone {name!r}: {error}{suggest_similar(name, tags)}") from None
    options: dict[str, Any] = {}
    if size not in (None, pretrained.input_size[-1]) and pretrained.fixed_input_size:
        options["img_size"] = size
    net = _create(name, drop_path, options)
    config = net.pretrained_cfg
    heads = config.get("classifier") or ()
    return Network(
        net,
        width=getattr(net, "head_hidden_size", None) or net.num_features,
        spec=InputSpec(config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]), config["interpolation"]),
        stage_of=_stages(net),
        feature_map=_feature_map,
        download=lambda: download(name, config),
        published=published_source(name, config),
        head_prefixes=(heads,) if isinstance(heads, str) else tuple(heads),
        translate=getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None),
    )


def published_source(name: str, config: dict[str, Any]) -> WeightsSource:
    """The source of the weights that timm publishes for a pretrained configuration; empty fields are left out."""
    hub_id = config.get("hf_hub_id")
    tag = config.get("tag")
    source = {
        "name": f"{config['architecture']}.{tag}" if tag and config.get("architecture") else name,
        "licence": config.get("license"),
        "url": f"https://huggingface.co/{hub_id}" if hub_id else config.get("url"),
        "hub_id": hub_id,
        "origin": config.get("origin_url"),
    }
    return WeightsSource(source="timm", **{key: value for key, value in source.items() if value})  # type: ignore[typeddict-item]


def download(name: str, config: dict[str, Any]) -> tuple[str, StateDict]:
    """The address and the weights that timm publishes for a pretrained configuration. Raises ModelError."""
    repository, url = config.get("hf_hub_id") or "", config.get("url") or ""
    if not repository and not url:
        raise ModelError(f"model.weights 'imagenet': timm has no pretrained weights for {name!r}; choose another tag")
    if not repository:
        return url, load_or_explain_offline(
            name, url, lambda: torch.hub.load_state_dict_from_url(url, weights_only=True)
        )
    where, file = f"https://huggingface.co/{repository}", config.get("hf_hub_filename") or "model.safetensors"
    return where, load_or_explain_offline(name, where, lambda: read_weights(download_from_hub(repository, file)))


def _create(name: str, drop_path: float, options: dict[str, Any]) -> Any:
    if drop_path:
        options = {**options, "drop_path_rate": drop_path}
    net: Any
    try:
        net = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        net = timm.create_model(name, pretrained=False, num_classes=0)  # set_drop_path raises
    set_drop_path(net, DropPath, "drop_prob", drop_path)
    if hasattr(net, "drop_rate"):
        net.drop_rate = 0.0  # dropout before the removed classifier; our heads have their own
    return net


def _stages(net: Any) -> dict[str, str]:
    try:
        matcher = net.group_matcher(coarse=True)
    except (AttributeError, AssertionError):  # a few networks have no group matcher
        return name_stages(net, stages_by_name(net))
    groups: dict[str, Any] = group_parameters(net, matcher, reverse=True)
    names = sorted((name for name, _ in net.named_parameters()), key=lambda name: groups[name])
    return name_stages(net, {name: groups[name] for name in names})


def _feature_map(net: Any, pictures_NCHW: Tensor) -> Tensor:
    features = net.forward_features(pictures_NCHW)
    if not isinstance(features, Tensor):
        raise ModelError(f"{type(net).__name__} has no one feature map; it gives {type(features).__name__}")
    channels_last = features.ndim == 4 and str(getattr(net, "output_fmt", "NCHW")) == "NHWC"
    return features.permute(0, 3, 1, 2) if channels_last else features


def to_sync_batch_norm(network: nn.Module) -> Any:
    """Convert batch norm to synchronised batch norm, in place; activations inside timm's norm layers are kept."""
    return convert_sync_batchnorm(network)
