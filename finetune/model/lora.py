"""LoRA: small matrices that learn beside frozen layers for a phase, and are merged into the weights after it."""

import re
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.selectors import Selector, lora_settings
from finetune.model.freezing.stages import split_into_stages

ADAPTER = "default"  # peft's own name for the only one


def check_lora(what: Selector) -> None:
    """Raise ModelError when a phase wants LoRA and it is written wrong, or `peft` is not installed."""
    if lora_settings(what) is not None and find_spec("peft") is None:
        raise ModelError("lora needs the package peft: pip install 'finetune[lora]'")


def add_lora(model: VideoClassifier, what: Selector, *, seed: int) -> None:
    """Put in the matrices that a phase's `lora(r=8, alpha=16)` asks for; without lora in it, do nothing.

    Beside each linear layer and each convolution of the backbone that is called as a layer stands a product of two
    matrices of rank r, scaled by alpha / r, which starts as zero (arXiv:2106.09685); it belongs to its layer's stage.
    """
    settings = lora_settings(what)
    if settings is None:
        return
    torch.manual_seed(seed)
    _inject_lora(model, rank=settings["r"], alpha=settings["alpha"])
    stage_of = model.backbone.stage_of
    model.backbone.stage_of = {
        name: stage_of[_without_base_layer(re.sub(r"\.lora_\w+\..*$", ".weight", name))]
        for name, _ in model.backbone.net.named_parameters()
    }
    model.stages = split_into_stages(model, model.stage_of_parameters())


def merge_lora(model: VideoClassifier) -> None:
    """Add each product to its layer's weight; the model has the names again that it had before."""
    adapted = _lora_layers(model)
    for name, layer in adapted:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if adapted:
        del model.backbone.net.peft_config
        stages = model.backbone.stage_of
        model.backbone.stage_of = {
            _without_base_layer(name): stage for name, stage in stages.items() if ".lora_" not in name
        }
        model.stages = split_into_stages(model, model.stage_of_parameters())


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with LoRA merged into copies of the weights: that of the same model without it."""
    state = {_without_base_layer(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, layer in _lora_layers(model):
        state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(ADAPTER).detach()
    return state


def has_lora(model: nn.Module) -> bool:
    """Whether there are matrices beside its layers now."""
    return bool(_lora_layers(model))


def _inject_lora(model: VideoClassifier, *, rank: int, alpha: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    names = "|".join(re.escape(name) for name in _called_layers(model))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"(?:{names})")
    inject_adapter_in_model(config, model.backbone.net)


@torch.no_grad()
def _called_layers(model: VideoClassifier) -> list[str]:
    """Layers that take part as layers: of some only the weight is read, and what stands beside them would not learn.

    Convolutions in groups are left out: they have few weights.
    """
    net = model.backbone.net
    plain = {
        module: name
        for name, module in net.named_modules()
        if type(module) is nn.Linear or (type(module) in {nn.Conv2d, nn.Conv3d} and module.groups == 1)
    }
    called: dict[str, None] = {}
    watches = [module.register_forward_hook(lambda module, *_: called.setdefault(plain[module])) for module in plain]
    before, device = model.training, next(net.parameters()).device
    model.eval()
    model(torch.zeros(1, model.num_frames, 3, model.size, model.size, dtype=torch.uint8, device=device))
    model.train(before)
    for watch in watches:
        watch.remove()
    return list(called)


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Layers with matrices beside them; known by what only they have, so that peft need not be there."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight")]


def _without_base_layer(name: str) -> str:
    return name.replace(".base_layer.", ".")
