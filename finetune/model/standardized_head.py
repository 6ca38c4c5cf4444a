"""Standardised inputs of the head while it is trained; folded into its first linear layer when weights are saved.

A layer on raw features learns slowly in directions in which they vary little. Trained on standardised features, and
folded afterwards, it is the same linear layer to everything that reads the model.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.stages import split_into_stages
from finetune.model.temporal_pooling import FIXED_POOLINGS
from finetune.recipe.tasks import DEFAULT_TASK

MEAN, STD = f"heads.{DEFAULT_TASK}.0.mean", f"heads.{DEFAULT_TASK}.0.std"
WEIGHT, BIAS = f"heads.{DEFAULT_TASK}.1.weight", f"heads.{DEFAULT_TASK}.1.bias"
LR_WIDTH = 2048  # inputs of a head that learning rates of recipes are for: ResNet-50's features, averaged over time


class StandardizedDropout(nn.Dropout):
    """Dropout of standardised vectors: (x - mean) / std, (B, D) to (B, D), in place of a head's plain dropout."""

    mean: Tensor
    std: Tensor

    def __init__(self, p: float, mean_D: Tensor, std_D: Tensor) -> None:
        super().__init__(p)
        self.register_buffer("mean", mean_D.float())
        self.register_buffer("std", std_D.float())

    def forward(self, vector_BD: Tensor) -> Tensor:
        return super().forward((vector_BD - self.mean) / self.std)


def can_be_standardized(model: VideoClassifier) -> bool:
    """Whether the head begins with a linear layer, and its input does not depend on new, random weights.

    Not for several tasks: their losses are weighted by their values at the start.
    """
    if model.multitask_spec is not None or not isinstance(model.temporal, FIXED_POOLINGS):
        return False
    kinds = [type(layer) for layer in model.heads[DEFAULT_TASK].children()]
    return kinds[:2] in ([nn.Dropout, nn.Linear], [StandardizedDropout, nn.Linear])


def is_standardized(model: VideoClassifier) -> bool:
    return can_be_standardized(model) and isinstance(_dropout(model), StandardizedDropout)


def standardize_head(model: VideoClassifier, mean_D: Tensor, std_D: Tensor) -> None:
    """Let the head take standardised vectors, without changing what it computes."""
    linear, dropout_rate = first_linear(model), _dropout(model).p
    mean_D, std_D = mean_D.to(linear.weight.device), std_D.to(linear.weight.device)
    with torch.no_grad():
        linear.bias.add_(linear.weight @ mean_D.to(linear.weight))
        linear.weight.mul_(std_D.to(linear.weight))
    _replace_dropout(model, StandardizedDropout(dropout_rate, mean_D, std_D))


def fold_standardization(model: VideoClassifier) -> None:
    """Undo `standardize_head`: the head takes vectors as they are, and computes the same."""
    if not is_standardized(model):
        return
    folded = folded_state(model.state_dict())
    linear = first_linear(model)
    with torch.no_grad():
        linear.weight.copy_(folded[WEIGHT])
        linear.bias.copy_(folded[BIAS])
    _replace_dropout(model, nn.Dropout(_dropout(model).p))


def folded_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which a standardised head is a plain one; others are returned as they are."""
    if MEAN not in state:
        return dict(state)
    weight = state[WEIGHT].double() / state[STD].double()
    bias = state[BIAS].double() - weight @ state[MEAN].double()
    others = {name: value for name, value in state.items() if name not in (MEAN, STD)}
    return others | {WEIGHT: weight.to(state[WEIGHT].dtype), BIAS: bias.to(state[BIAS].dtype)}


def own_head_state(model: VideoClassifier) -> dict[str, Tensor]:
    """The values of a standardised head that `folded_state` changes or drops; empty for a plain head."""
    state = model.state_dict() if is_standardized(model) else {}
    return {name: state[name] for name in (WEIGHT, BIAS, MEAN, STD) if name in state}


def restore_head_state(model: VideoClassifier, state: Mapping[str, Tensor]) -> None:
    """Standardise the head as it was when `own_head_state` was taken."""
    if not state:
        return
    standardize_head(model, state[MEAN], state[STD])
    with torch.no_grad():
        for name in (WEIGHT, BIAS):
            model.get_parameter(name).copy_(state[name])


def wide_head_lr_scale(model: VideoClassifier) -> float:
    """The factor on the learning rate of a head on more than LR_WIDTH standardised inputs: LR_WIDTH / D.

    One step of all weights changes the output in proportion to D: at the rate of a narrow head, a head on eight
    concatenated frames forgets the probe that it started from (muP, arXiv:2203.03466).
    """
    return min(1.0, LR_WIDTH / first_linear(model).in_features) if can_be_standardized(model) else 1.0


def first_linear(model: VideoClassifier) -> nn.Linear:
    """The first linear layer of a head that `can_be_standardized`."""
    linear = _head(model)[1]
    assert isinstance(linear, nn.Linear)
    return linear


def _head(model: VideoClassifier) -> nn.Sequential:
    head = model.heads[DEFAULT_TASK]
    assert isinstance(head, nn.Sequential)
    return head


def _dropout(model: VideoClassifier) -> nn.Dropout:
    dropout = _head(model)[0]
    assert isinstance(dropout, nn.Dropout)
    return dropout


def _replace_dropout(model: VideoClassifier, dropout: nn.Dropout) -> None:
    dropout.train(_dropout(model).training)
    _head(model)[0] = dropout
    model.stages = split_into_stages(model, model.stage_of_parameters())
