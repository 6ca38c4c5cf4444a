"""Find the stage of a backbone that is worth training: each alone for a few epochs (surgical fine-tuning)."""

from dataclasses import dataclass
from pathlib import Path

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import set_trainable
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.recipe.schema import Phase, Recipe
from finetune.run.checkpoint import load
from finetune.study.compare_on_val import refuse_without_val, score_difference
from finetune.study.several_runs import StudyRun, finish_run, finish_runs, study_folder


@dataclass(frozen=True)
class StageResult:
    """What training a stage together with the head scored on the split val.

    `figure` is the headline metric (top-1, mAP, …). `gain` is the accuracy minus that of training the head alone, as a
    share (see `score_difference`), its interval corrected for the number of stages.
    """

    what: str
    parameters: int
    figure: float
    interval: tuple[float, float]
    gain: float = 0.0
    gain_interval: tuple[float, float] = (0.0, 0.0)


def sweep_stages(
    recipe: Recipe, manifest: Manifest, *, probe_epochs: int, epochs: int, lr: float, out: Path
) -> list[StageResult]:
    """Train the head for `probe_epochs`, then from there the head, each stage with the head, and everything; by gain.

    Each is a run in a folder of `out`, with the recipe's settings but its phases. An interrupted study goes on where it
    was. Test clips are not used. Source: arXiv:2210.11466. Raises RunError where there are no val rows.
    """
    refuse_without_val(manifest)
    with study_folder(out, recipe, manifest, {"probe_epochs": probe_epochs, "epochs": epochs, "lr": lr}):
        probe_recipe = _with_phase(recipe, Phase(unfreeze="head", epochs=probe_epochs))
        probe = finish_run(StudyRun("probe", probe_recipe, manifest), out=out, split="val", position="first").folder
        model = load(probe)
        stages = [stage for stage in model.stages if stage not in HEAD_STAGES]
        trained = {"head": HEAD_STAGES, **{stage: (stage, *HEAD_STAGES) for stage in stages}, "all": "all"}
        phases = {what: Phase(unfreeze=names, epochs=epochs, lr=lr) for what, names in trained.items()}
        runs = [StudyRun(what, _with_phase(recipe, phase), manifest, start=probe) for what, phase in phases.items()]
        outcomes = []
        for what, run in zip(phases, finish_runs(runs, out=out, split="val"), strict=True):
            gain, gain_interval = 0.0, (0.0, 0.0)
            if what != "head":
                gain, gain_interval = score_difference(run.folder, out / "head", manifest, comparisons=len(runs) - 1)
            parameters = _count_trainable(model, phases[what])
            _, value, interval = run.headline
            outcomes.append(StageResult(what, parameters, value, interval, gain, gain_interval))
        return sorted(outcomes, key=lambda outcome: -outcome.gain)


def _with_phase(recipe: Recipe, phase: Phase) -> Recipe:
    return recipe.model_copy(update={"phases": [phase]})


def _count_trainable(model: VideoClassifier, phase: Phase) -> int:
    set_trainable(model, phase.unfreeze)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
