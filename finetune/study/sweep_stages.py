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
    """What fine-tuning a stage together with the head scored on the split val.

    `stage` is also `head` for the head alone, or `all` for everything; `parameters` is the number that were trained.

    `figure` is the headline metric (top-1, mAP, …). `gain` is the accuracy minus that of training the head alone, as a
    share (see `score_difference`); its interval is corrected for the number of stages.
    """

    stage: str
    parameters: int
    figure: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def sweep_stages(
    recipe: Recipe, manifest: Manifest, *, probe_epochs: int, epochs: int, lr: float, out: Path
) -> list[StageResult]:
    """Train the head for `probe_epochs`, then from there the head, each stage with the head, and everything; by gain.

    Each is a run in a folder of `out`, with the recipe's settings but its phases. An interrupted study resumes. Test
    clips are not used. Source: arXiv:2210.11466. Raises RunError where there are no val rows.
    """
    refuse_without_val(manifest)
    with study_folder(out, recipe, manifest, {"probe_epochs": probe_epochs, "epochs": epochs, "lr": lr}):
        probe_recipe = _with_phase(recipe, Phase(unfreeze="head", epochs=probe_epochs))
        probe = finish_run(
            StudyRun("probe", probe_recipe, manifest), out=out, split="val", position="before the stages"
        ).folder
        model = load(probe)
        stages = [stage for stage in model.stages if stage not in HEAD_STAGES]
        selected = {"head": HEAD_STAGES, **{stage: (stage, *HEAD_STAGES) for stage in stages}, "all": "all"}
        phases = {name: Phase(unfreeze=names, epochs=epochs, lr=lr) for name, names in selected.items()}
        runs = [StudyRun(name, _with_phase(recipe, phase), manifest, start=probe) for name, phase in phases.items()]
        results = []
        for run in finish_runs(runs, out=out, split="val", what="stage"):
            name, gain, gain_interval = run.folder.name, 0.0, (0.0, 0.0)
            if name != "head":
                gain, gain_interval = score_difference(run.folder, out / "head", manifest, comparisons=len(runs) - 1)
            _, value, interval = run.headline
            parameters = _count_trainable(model, phases[name])
            results.append(StageResult(name, parameters, value, interval, gain, gain_interval))
        return sorted(results, key=lambda result: -result.gain)


def _with_phase(recipe: Recipe, phase: Phase) -> Recipe:
    return recipe.model_copy(update={"phases": [phase]})


def _count_trainable(model: VideoClassifier, phase: Phase) -> int:
    set_trainable(model, phase.unfreeze)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
