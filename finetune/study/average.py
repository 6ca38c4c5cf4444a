"""Weights averaged after training: WiSE-FT between the two ends of a run, soups of several runs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.errors import RunError
from finetune.inference.predict_split import predict_rows
from finetune.metrics.headline import epoch_sort_key, validation_metrics
from finetune.recipe.schema import Recipe
from finetune.run.checkpoint import load, load_model_weights, read_tensors, save_checkpoint
from finetune.run.folder import RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import open_run
from finetune.run.write import new_run_folder
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.storage.atomic import write_json
from finetune.train.validation import multitask_val_metrics
from finetune.video.row_loader import evaluation_loader

StateDict = dict[str, Tensor]
Metrics = dict[str, Any]
Score = Callable[[StateDict], Metrics]
ALPHAS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Candidate:
    """Weights that were tried, with their figures on the split val; `taken` into the result or not."""

    name: str
    figures: Metrics
    taken: bool = False


def wise_ft(run: str | Path, *, out: Path | None = None) -> tuple[Path, list[Candidate]]:
    """Interpolate a run's best weights to those it had before its backbone first learnt; a new run folder.

    (1 - alpha) × start + alpha × best for alpha in 0, 0.1 … 1: the best figure on the split val is taken, the lower
    loss deciding between equals (arXiv:2109.01903). The start has the head that was trained on the pretrained
    backbone where the first phase was `head`, else a random one. Raises RunError.
    """
    folder = Path(run)
    score, best = _scorer(folder), _weights(folder, "best")
    if not RunFolder(folder).checkpoint("start").exists():
        raise RunError(f"{folder}: its backbone never learnt, so there is nothing to interpolate")
    start = _weights(folder, "start")
    states = {alpha: _weighted_sum([start, best], [1 - alpha, alpha]) for alpha in ALPHAS}
    tried = [Candidate(f"alpha {alpha:.1f}", score(state)) for alpha, state in states.items()]
    chosen = max(range(len(tried)), key=lambda index: epoch_sort_key(tried[index].figures))
    tried[chosen] = replace(tried[chosen], taken=True)
    target = _write([folder], states[ALPHAS[chosen]], tried, method="wise_ft", out=out)
    return target, tried


def soup(runs: Sequence[str | Path], *, greedy: bool = True, out: Path | None = None) -> tuple[Path, list[Candidate]]:
    """Average the best weights of runs of one model on the same rows; a new run folder (arXiv:2203.05482).

    From the best on the split val downwards each run is stirred in, and stays in unless that falls; not `greedy`:
    all are. Runs whose heads began at different random weights seldom average well, and the greedy soup then
    is the best of them alone. Raises RunError.
    """
    folders = [Path(run) for run in runs]
    _refuse_incompatible_runs(folders)
    score = _scorer(folders[0])
    weights = [_weights(folder, "best") for folder in folders]
    tried = [Candidate(folder.resolve().name, score(state)) for folder, state in zip(folders, weights, strict=True)]
    order = sorted(range(len(tried)), key=lambda index: epoch_sort_key(tried[index].figures), reverse=True)
    inside, (best, _) = [order[0]], epoch_sort_key(tried[order[0]].figures)
    for index in order[1:]:
        if greedy:
            found, _ = epoch_sort_key(score(_mean([weights[each] for each in [*inside, index]])))
            if found < best:
                continue
            best = found
        inside.append(index)
    listed = [replace(candidate, taken=index in inside) for index, candidate in enumerate(tried)]
    result = _mean([weights[index] for index in inside])
    listed.append(Candidate("soup", score(result), taken=True))
    target = _write(folders, result, listed, method="greedy soup" if greedy else "uniform soup", out=out)
    return target, listed


def _mean(states: Sequence[StateDict]) -> StateDict:
    return _weighted_sum(states, [1 / len(states)] * len(states))


def _weighted_sum(states: Sequence[StateDict], shares: Sequence[float]) -> StateDict:
    """The weighted sum; whole numbers, which count batches, are the last state's."""
    mixed = dict(states[-1])
    for name, value in mixed.items():
        if value.is_floating_point() and all(name in state and state[name].shape == value.shape for state in states):
            parts = [state[name].double() * share for state, share in zip(states, shares, strict=True)]
            mixed[name] = torch.stack(parts).sum(0).to(value.dtype)
    return mixed


def _weights(folder: Path, which: str) -> StateDict:
    return read_tensors(RunFolder(folder).checkpoint(which).weights)


def _scorer(folder: Path) -> Score:
    """Figures of weights on the split val of a run, as `finetune evaluate` counts them."""
    recipe, classes = open_run(folder)
    tested = saved_manifest(folder, recipe, classes).for_split("val")
    if not len(tested):
        raise RunError(f"{folder}: has no rows in the split val, on which what is averaged is chosen")
    model = load(folder).to(resolve_device(recipe.train.device))
    precision = resolve_precision(recipe.train.precision, next(model.parameters()).device)
    views = recipe.evaluate.views

    def score(state: StateDict) -> Metrics:
        load_model_weights(model, state, where=folder)
        loader, _ = evaluation_loader(tested, "val", recipe, size=model.size, views=views)
        with loader:
            said = predict_rows(model, loader, precision=precision)
        if not len(said.rows):
            raise RunError(f"{folder}: none of its val rows can be read")
        if model.multitask_spec is not None:
            return multitask_val_metrics(tested, said)
        return validation_metrics(tested.truth[said.rows], said.tasks[model.primary])

    return score


def _refuse_incompatible_runs(folders: Sequence[Path]) -> None:
    recipe, classes = open_run(folders[0])
    rows = _split_of_rows(folders[0], recipe, classes)
    for folder in folders[1:]:
        other, other_classes = open_run(folder)
        alike = (other.model, other.clip, other_classes) == (recipe.model, recipe.clip, classes)
        if not alike or (other.tasks, other.multitask.sharing) != (recipe.tasks, recipe.multitask.sharing):
            raise RunError(
                f"{folder}: has another model, clip, classes or tasks than {folders[0]}; only like weights average"
            )
        if _split_of_rows(folder, other, classes) != rows:
            raise RunError(f"{folder}: was split into other rows than {folders[0]}: what one trained on would test it")


def _split_of_rows(folder: Path, recipe: Recipe, classes: tuple[str, ...]) -> dict[str, str]:
    manifest = saved_manifest(folder, recipe, classes)
    return {str(manifest.path(row).resolve()): str(manifest.splits[row]) for row in range(len(manifest))}


def _write(
    folders: Sequence[Path], state: StateDict, tried: Sequence[Candidate], *, method: str, out: Path | None
) -> Path:
    """A run folder of the averaged weights, which `evaluate`, `predict` and `report` take like any other."""
    name = f"{folders[0].resolve().name}-{method.replace(' ', '-')}"
    target = new_run_folder(name, out or Path("runs") / name)
    target.mkdir(parents=True, exist_ok=True)
    first = RunFolder(folders[0])
    for file in (first.recipe, first.manifest, first.classes, first.tasks, first.environment, first.skipped):
        if file.exists():
            shutil.copyfile(file, target / file.name)
    made_of = [str(folder.resolve()) for folder in folders]
    listed = [asdict(candidate) for candidate in tried]
    write_json(target / "average.json", {"method": method, "runs": made_of, "tried": listed})
    model = load(folders[0])
    model.load_state_dict(state)
    taken = next(candidate for candidate in reversed(tried) if candidate.taken)
    meta = {"epoch": None, "average": method, **taken.figures}
    save_checkpoint(target, "best", model, meta)
    return target
