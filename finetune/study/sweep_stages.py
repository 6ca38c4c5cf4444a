"""Which stage pays: each one trained alone for a few epochs, after the same probe (surgical fine-tuning)."""

from dataclasses import dataclass
from pathlib import Path

from finetune.data.manifest import Manifest
from finetune.metrics.headline import headline
from finetune.model.freezing.freeze import set_trainable
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.recipe.schema import Phase, Recipe
from finetune.run.checkpoint import load
from finetune.study.study_runs import (
    primary_task_metrics,
    refuse_without_val,
    score_difference,
    study_folder,
    train_and_evaluate,
)


@dataclass(frozen=True)
class Outcome:
    """What a stage was worth: its figure (top-1, mAP, …) on the split val with its interval, and how many more clips
    are wholly right than with the head alone, as a share; of a task that gives numbers, how much higher the figure
    is. Intervals of gains are corrected for as many comparisons as there are."""

    what: str
    parameters: int
    figure: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def sweep_stages(
    recipe: Recipe, manifest: Manifest, *, probe_epochs: int, epochs: int, lr: float, out: Path
) -> list[Outcome]:
    """Train the head once, then from there the head alone, each stage of the backbone with it, and all; by gain.

    Each is a run in a folder of `out` with the recipe's settings otherwise. What is finished there already is taken as
    it is, so that an interrupted sweep goes on. Scores are those of the split val: test clips choose nothing.
    Source: arXiv:2210.11466. Raises RunError where there are no val rows.
    """
    refuse_without_val(manifest)
    with study_folder(out, recipe, manifest, probe_epochs=probe_epochs, epochs=epochs, lr=lr):
        probing = _with_phase(recipe, Phase(train="head", epochs=probe_epochs))
        probe = train_and_evaluate(probing, manifest, out=out / "probe", split="val")
        stages = [name for name in load(probe).stages if name not in HEAD_STAGES]
        trained = {"head": HEAD_STAGES, **{stage: (stage, *HEAD_STAGES) for stage in stages}, "all": ("all",)}
        outcomes = []
        for what, names in trained.items():
            phase = Phase(train="all" if what == "all" else tuple(names), epochs=epochs, lr=lr)
            run = train_and_evaluate(_with_phase(recipe, phase), manifest, out=out / what, split="val", start=probe)
            gain, gain_interval = 0.0, (0.0, 0.0)
            if what != "head":
                gain, gain_interval = score_difference(run, out / "head", manifest, comparisons=len(trained) - 1)
            _, value, interval = headline(primary_task_metrics(run, "val"))
            outcomes.append(Outcome(what, _count_trainable(probe, phase), value, interval, gain, gain_interval))
        return sorted(outcomes, key=lambda outcome: -outcome.gain)


def _with_phase(recipe: Recipe, phase: Phase) -> Recipe:
    return recipe.model_copy(update={"phases": [phase]})


def _count_trainable(run: Path, phase: Phase) -> int:
    """Parameters that learn in a phase."""
    model = load(run)
    set_trainable(model, phase.train)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
