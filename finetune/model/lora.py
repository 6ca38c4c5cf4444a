"""LoRA: low-rank matrices trained beside frozen layers during a phase, and merged into the weights after it."""

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
    """Raise ModelError if a selector has a malformed `lora(…)`, or has one and `peft` is not installed."""
    if lora_settings(what) is not None and find_spec("peft") is None:
        raise ModelError("lora needs the package peft: pip install 'finetune-video[lora]'")


def add_lora(model: VideoClassifier, what: Selector, *, seed: int) -> None:
    """Add LoRA matrices as `lora(r=8, alpha=16)` in a selector asks; do nothing for a selector without it.

    Beside each linear layer and each ungrouped convolution of the backbone runs a product of two matrices of rank r,
    scaled by alpha / r, whose output is added. It starts at 0 and belongs to the layer's stage (arXiv:2106.09685).
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
    """Add each product to its layer's weight and remove the matrices; parameters have their old names again."""
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
    """A state dict with LoRA merged into copies of the weights; its names and shapes are those without LoRA."""
    state = {_without_base_layer(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, layer in _lora_layers(model):
        state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(ADAPTER).detach()
    return state


def has_lora(model: nn.Module) -> bool:
    """Whether the model has LoRA matrices now."""
    return bool(_lora_layers(model))


def _inject_lora(model: VideoClassifier, *, rank: int, alpha: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    names = "|".join(re.escape(name) for name in _called_layers(model))
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"(?:{names})")
    inject_adapter_in_model(config, model.backbone.net)


@torch.no_grad()
def _called_layers(model: VideoClassifier) -> list[str]:
    """Names of linear layers and convolutions whose forward is called in a pass over a clip.

    LoRA matrices beside layers whose weight is used without a call would get no gradient. Grouped convolutions are
    excluded: they have few weights.
    """
    net = model.backbone.net
    plain = {
        module: name
        for name, module in net.named_modules()
        if type(module) is nn.Linear or (type(module) in {nn.Conv2d, nn.Conv3d} and module.groups == 1)
    }
    called: dict[str, None] = {}
    handles = [module.register_forward_hook(lambda module, *_: called.setdefault(plain[module])) for module in plain]
    before, device = model.training, next(net.parameters()).device
    model.eval()
    model(torch.zeros(1, model.num_frames, 3, model.size, model.size, dtype=torch.uint8, device=device))
    model.train(before)
    for handle in handles:
        handle.remove()
    return list(called)


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Layers with LoRA, recognised by a method that only they have, so that peft need not be installed."""
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight")]


def _without_base_layer(name: str) -> str:
    return name.replace(".base_layer.", ".")
