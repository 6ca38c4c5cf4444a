"""Parameter groups for an optimizer: all trainable parameters, with a learning rate per stage."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from finetune.arguments import check_arguments, check_range
from finetune.errors import ModelError, suggest_similar
from finetune.model.freezing.freeze import StagedModel, trainable_stages
from finetune.model.freezing.stages import HEAD_STAGES, refuse_unknown_parameters

# Position embeddings and class tokens are added to activations, as biases are, and get no weight decay.
NO_DECAY_PATTERN = re.compile(r"pos_embed|position|token|rel_pos|relative_position")


@check_arguments
def param_groups(
    model: StagedModel,
    *,
    lr: float,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    backbone_lr_scale: float = 1.0,
    stage_lr: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups `<stage>/decay` and `<stage>/no_decay` of exactly the trainable parameters.

    Biases, norms and other vectors, position embeddings and class tokens have no weight decay. The learning rate is
    `lr` for the new parts and `lr` × `backbone_lr_scale` × `layer_decay`^d for the backbone, where d is 1 for its last
    stage and grows by 1 per stage towards the input (discriminative fine-tuning, arXiv:1801.06146). `stage_lr`
    overrides it by stage. Rates and weight decay are 0 or more, `layer_decay` is from 0 to 1. Each group has the keys
    `name`, `stage`, `params`, `lr` and `weight_decay`. Raises ModelError for an unknown stage in `stage_lr`, and
    ArgumentError for a number out of range.
    """
    own_rates = dict(stage_lr or {})
    for name, value in {"lr": lr, "weight_decay": weight_decay, "backbone_lr_scale": backbone_lr_scale}.items():
        check_range(value, 0, name=name)
    check_range(layer_decay, 0, 1, name="layer_decay")
    for stage_name, rate in own_rates.items():
        check_range(rate, 0, name=f"stage_lr of {stage_name}")
    check_stages(model, own_rates)
    parameters = dict(model.named_parameters())
    refuse_unknown_parameters(model.stages, parameters)
    backbone = [name for name in model.stages if name not in HEAD_STAGES]
    groups: dict[str, dict[str, Any]] = {}
    for stage_name in trainable_stages(model):
        rate = lr
        if stage_name in backbone:
            rate = lr * backbone_lr_scale * layer_decay ** (len(backbone) - backbone.index(stage_name))
        for name in model.stages[stage_name].parameters:
            if not parameters[name].requires_grad:
                continue
            decays = _is_matrix(parameters[name]) and not NO_DECAY_PATTERN.search(name)
            group_name = f"{stage_name}/{'decay' if decays else 'no_decay'}"
            settings = {
                "stage": stage_name,
                "lr": own_rates.get(stage_name, rate),
                "weight_decay": weight_decay * decays,
            }
            group = groups.setdefault(group_name, {"name": group_name, "params": [], **settings})
            group["params"].append(parameters[name])
    grouped = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in parameters.values() if parameter.requires_grad}
    return list(groups.values())


def check_stages(model: StagedModel, names: Iterable[str]) -> None:
    """Raise ModelError for names that are no stage of the model."""
    unknown = [name for name in names if name not in model.stages]
    if unknown:
        known = ", ".join(model.stages)
        raise ModelError(f"unknown stage {unknown[0]!r}{suggest_similar(unknown[0], model.stages)}; there are {known}")


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether two or more axes are longer than 1; a scale of shape (C, 1, 1) is a vector."""
    return sum(length > 1 for length in parameter.shape) > 1
