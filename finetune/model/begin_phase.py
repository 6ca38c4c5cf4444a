"""The start of a phase: which stages are trainable, and the parameter groups of its optimizer."""

from typing import Any

from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import set_trainable
from finetune.model.freezing.param_groups import param_groups
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.lora import add_lora
from finetune.model.standardized_head import wide_head_lr_scale
from finetune.recipe.schema import Phase


def begin_phase(model: VideoClassifier, phase: Phase, *, seed: int = 0) -> tuple[list[str], list[dict[str, Any]]]:
    """Freeze everything except what a phase trains. Returns the trainable stages and the optimizer's groups.

    LoRA matrices that the phase asks for are added, initialised from `seed`; `merge_lora` merges them after it.
    """
    add_lora(model, phase.unfreeze, seed=seed)
    learning = set_trainable(model, phase.unfreeze, batch_norm=phase.batch_norm)
    groups = param_groups(
        model,
        lr=phase.lr,
        weight_decay=phase.weight_decay or 0.0,
        layer_decay=phase.layer_decay,
        backbone_lr_scale=phase.backbone_lr_scale,
        stage_lr=phase.stage_lr,
    )
    for group in groups:  # with biases and the pooling's layer norm, which move the head's standardised inputs
        if group["stage"] in HEAD_STAGES and group["stage"] not in phase.stage_lr:
            group["lr"] *= wide_head_lr_scale(model)
    return learning, groups
