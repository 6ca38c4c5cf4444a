"""Built-in schedules of phases, by name."""

from collections.abc import Callable, Sequence

from finetune.errors import RecipeError, suggest_similar
from finetune.recipe.schema import Phase, Schedule

HEAD_STAGES = ("temporal", "head")
PYRAMID = "pyramid"  # the stage of new parts that only tasks of kind detect, track and segment have


def resolve_phases(phases: Sequence[Phase] | Schedule, stages: Sequence[str]) -> tuple[Phase, ...]:
    """The phases of a built-in schedule for a model with these stages; a list of phases is returned as it is.

    Raises RecipeError for an unknown schedule, or an unknown stage in its name.
    """
    if not isinstance(phases, Schedule):
        return tuple(phases)
    name, colon, stage = phases.schedule.partition(":")
    backbone = [name for name in stages if name not in (PYRAMID, *HEAD_STAGES)]
    if name not in SCHEDULES:
        known = ", ".join([*SCHEDULES, "surgical:<stage>"]).replace("surgical, ", "")
        raise RecipeError(f"phases: unknown schedule {name!r}{suggest_similar(name, SCHEDULES)}; there are {known}")
    if (name == "surgical") != bool(colon) or (colon and stage not in backbone):
        raise RecipeError(
            f"phases: {phases.schedule!r}: surgical, and no other, takes a stage of the backbone, as "
            f"surgical:{backbone[-1]}{suggest_similar(stage, backbone)}; this one has {', '.join(backbone)}"
        )
    resolved = SCHEDULES[name](phases, [stage] if stage else backbone)
    return tuple(map(_with_pyramid, resolved)) if PYRAMID in stages else resolved


def _with_pyramid(phase: Phase) -> Phase:
    """The phase, whose list of stages with the new parts also names the pyramid."""
    if isinstance(phase.unfreeze, tuple) and HEAD_STAGES[0] in phase.unfreeze:
        return phase.model_copy(update={"unfreeze": (PYRAMID, *phase.unfreeze)})
    return phase


def _head_only(plan: Schedule, backbone: Sequence[str]) -> tuple[Phase, ...]:
    """Linear probe: the pretrained backbone stays frozen."""
    return (Phase(unfreeze="head", epochs=plan.epochs, lr=plan.lr),)


def _lp_ft(plan: Schedule, backbone: Sequence[str]) -> tuple[Phase, ...]:
    """Linear probe, then fine-tune everything at a low learning rate (LP-FT, arXiv:2202.10054)."""
    first, rest = _split_epochs(plan.epochs)
    return Phase(unfreeze="head", epochs=first, lr=plan.lr), Phase(unfreeze="all", epochs=rest, lr=plan.backbone_lr)


def _head_then_all(plan: Schedule, backbone: Sequence[str]) -> tuple[Phase, ...]:
    """Train the head for a fifth of the epochs, then everything, with layer-wise learning-rate decay."""
    first = max(1, plan.epochs // 5)
    rest = max(1, plan.epochs - first)
    return (
        Phase(unfreeze="head", epochs=first, lr=plan.lr),
        Phase(unfreeze="all", epochs=rest, lr=plan.lr, backbone_lr_scale=_backbone_lr_scale(plan), layer_decay=0.8),
    )


def _full(plan: Schedule, backbone: Sequence[str]) -> tuple[Phase, ...]:
    """Train everything from the start, the backbone at its lower learning rate."""
    return (Phase(unfreeze="all", epochs=plan.epochs, lr=plan.lr, backbone_lr_scale=_backbone_lr_scale(plan)),)


def _gradual(plan: Schedule, backbone: Sequence[str]) -> tuple[Phase, ...]:
    """Unfreeze one more stage every few epochs, from last to first (ULMFiT, arXiv:1801.06146)."""
    words = ["head", *(f"last({count})" for count in range(1, len(backbone))), "all"]
    rates = {"lr": plan.lr, "backbone_lr_scale": _backbone_lr_scale(plan), "layer_decay": 0.9}
    longest = max(plan.epochs_per_stage, plan.epochs - plan.epochs_per_stage * len(backbone))
    lengths = [plan.epochs_per_stage] * len(backbone) + [longest]
    first = Phase(unfreeze="head", epochs=plan.epochs_per_stage, lr=plan.lr)
    return first, *(
        Phase.model_validate({"unfreeze": word, "epochs": epochs, **rates})
        for word, epochs in zip(words[1:], lengths[1:], strict=True)
    )


def _surgical(plan: Schedule, stage: Sequence[str]) -> tuple[Phase, ...]:
    """Linear probe, then train one stage and the new layers (surgical fine-tuning, arXiv:2210.11466)."""
    first, rest = _split_epochs(plan.epochs)
    return (
        Phase(unfreeze="head", epochs=first, lr=plan.lr),
        Phase(unfreeze=(*stage, *HEAD_STAGES), epochs=rest, lr=plan.backbone_lr),
    )


def _bitfit(plan: Schedule, backbone: Sequence[str]) -> tuple[Phase, ...]:
    """Train biases and new layers alone (BitFit, arXiv:2106.10199)."""
    return (Phase(unfreeze=("match(bias$)", *HEAD_STAGES), epochs=plan.epochs, lr=plan.lr),)


def _split_epochs(epochs: int) -> tuple[int, int]:
    return max(1, epochs // 2), max(1, epochs - epochs // 2)


def _backbone_lr_scale(plan: Schedule) -> float:
    return plan.backbone_lr / plan.lr


SCHEDULES: dict[str, Callable[[Schedule, Sequence[str]], tuple[Phase, ...]]] = {
    "head_only": _head_only,
    "lp_ft": _lp_ft,
    "head_then_all": _head_then_all,
    "full": _full,
    "gradual": _gradual,
    "surgical": _surgical,
    "bitfit": _bitfit,
}
