"""Average weights after training: WiSE-FT between the start and the end of a run, soups of several runs."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.data.intervals import clip_name
from finetune.errors import RunError
from finetune.inference.mask_counts import with_mask_counts
from finetune.inference.predict_split import predict_rows
from finetune.metrics.headline import epoch_sort_key, validation_metrics
from finetune.run.checkpoint import load, load_model, load_model_weights, read_tensors, save_checkpoint
from finetune.run.folder import RunFolder
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run, open_run
from finetune.run.write import new_run_folder
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.storage.atomic import write_json
from finetune.train.validation import multitask_val_metrics
from finetune.video.row_loader import evaluation_loader

StateDict = dict[str, Tensor]
Metrics = dict[str, Any]
Score = Callable[[StateDict], Metrics]
Progress = Callable[[int, int], None]
ALPHAS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Candidate:
    """Weights with their metrics on the split val; `taken` is true if they are part of the result."""

    name: str
    figures: Metrics
    taken: bool = False


def wise_ft(
    run: str | Path, *, out: Path | None = None, progress: Progress = lambda done, total: None
) -> tuple[Path, list[Candidate]]:
    """Interpolate between a run's weights before its backbone was first trained and its best ones.

    Gives a new run folder and the candidates: (1 - alpha) · start + alpha · best for alpha in 0, 0.1 … 1. The one with
    the best metric on the split val is taken, of equals the one with the lowest loss (arXiv:2109.01903). If the first
    phase trained the head alone, the start has that head, else a random one. `progress` is called with the numbers of
    finished and of all evaluations. Raises RunError.
    """
    folder = Path(run)
    score, best = _scorer(folder, len(ALPHAS), progress), _weights(folder, "best")
    if not RunFolder(folder).checkpoint("start").exists():
        raise RunError(f"{folder}: its backbone was never trained, so there is nothing to interpolate")
    start = _weights(folder, "start")
    states = {alpha: _weighted_sum([start, best], [1 - alpha, alpha]) for alpha in ALPHAS}
    candidates = [Candidate(f"alpha {alpha:.1f}", score(state)) for alpha, state in states.items()]
    chosen = max(range(len(candidates)), key=lambda index: epoch_sort_key(candidates[index].figures))
    candidates[chosen] = replace(candidates[chosen], taken=True)
    target = _write([folder], states[ALPHAS[chosen]], candidates, method="wise_ft", out=out)
    return target, candidates


def soup(
    runs: Sequence[str | Path],
    *,
    greedy: bool = True,
    out: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, list[Candidate]]:
    """Average the best weights of runs of one model on the same rows (arXiv:2203.05482).

    Gives a new run folder and the candidates: the runs and the soup. A `greedy` soup adds the runs from the best on the
    split val downwards, each only if the metric does not fall; else all are averaged. Runs whose heads started from
    different random weights rarely average well: the greedy soup is then the best run alone. `progress` is called as in
    `wise_ft`. Raises RunError.
    """
    folders = [Path(run) for run in runs]
    _refuse_incompatible_runs(folders)
    score = _scorer(folders[0], 2 * len(folders) if greedy else len(folders) + 1, progress)
    weights = [_weights(folder, "best") for folder in folders]
    candidates = [Candidate(run.resolve().name, score(state)) for run, state in zip(folders, weights, strict=True)]
    order = sorted(range(len(folders)), key=lambda index: epoch_sort_key(candidates[index].figures), reverse=True)
    included, (best, _) = [order[0]], epoch_sort_key(candidates[order[0]].figures)
    for index in order[1:]:
        if greedy:
            value, _ = epoch_sort_key(score(_mean([weights[number] for number in [*included, index]])))
            if value < best:
                continue
            best = value
        included.append(index)
    candidates = [replace(candidate, taken=index in included) for index, candidate in enumerate(candidates)]
    average = _mean([weights[index] for index in included])
    candidates.append(Candidate("soup", score(average), taken=True))
    target = _write(folders, average, candidates, method="greedy soup" if greedy else "uniform soup", out=out)
    return target, candidates


def _mean(states: Sequence[StateDict]) -> StateDict:
    return _weighted_sum(states, [1 / len(states)] * len(states))


def _weighted_sum(states: Sequence[StateDict], shares: Sequence[float]) -> StateDict:
    """The weighted sum of floating-point tensors; others, such as batch counts, are those of the last state."""
    average = dict(states[-1])
    for name, value in average.items():
        if value.is_floating_point() and all(name in state and state[name].shape == value.shape for state in states):
            parts = [state[name].double() * share for state, share in zip(states, shares, strict=True)]
            average[name] = torch.stack(parts).sum(0).to(value.dtype)
    return average


def _weights(folder: Path, which: str) -> StateDict:
    return read_tensors(RunFolder(folder).checkpoint(which).weights)


def _scorer(folder: Path, times: int, progress: Progress) -> Score:
    """A function for `times` calls: evaluates weights on the split val of a run, as `finetune evaluate` does."""
    run = open_run(folder)
    recipe, tested = run.recipe, saved_manifest(run).for_split("val")
    if not len(tested):
        raise RunError(f"{folder}: has no rows in the split val, on which the average is chosen")
    model = load_model(run).to(resolve_device(recipe.train.device))
    precision = resolve_precision(recipe.train.precision, next(model.parameters()).device)
    views = recipe.evaluate.views
    numbers = itertools.count(1)

    def score(state: StateDict) -> Metrics:
        load_model_weights(model, state, where=folder)
        loader, _ = evaluation_loader(tested, "val", recipe, size=model.size, views=views)
        with loader:
            predictions = with_mask_counts(predict_rows(model, loader, precision=precision), loader.dataset)
        if not len(predictions.rows):
            raise RunError(f"{folder}: none of its val rows can be read")
        progress(next(numbers), times)
        if model.multitask_spec is not None:
            return multitask_val_metrics(tested, predictions)
        return validation_metrics(tested.truth[predictions.rows], predictions.tasks[model.primary])

    return score


def _refuse_incompatible_runs(folders: Sequence[Path]) -> None:
    first = open_run(folders[0])
    recipe, rows = first.recipe, _split_of_rows(first)
    for folder in folders[1:]:
        run = open_run(folder)
        other = run.recipe
        alike = (other.model, other.clip, run.classes) == (recipe.model, recipe.clip, first.classes)
        if not alike or (other.tasks, other.multitask.sharing) != (recipe.tasks, recipe.multitask.sharing):
            raise RunError(
                f"{folder}: has another model, clip, classes or tasks than {folders[0]}; "
                "only runs of the same model can be averaged"
            )
        if _split_of_rows(run) != rows:
            raise RunError(
                f"{folder}: has other splits than {folders[0]}: training clips of one would be test clips of the other"
            )


def _split_of_rows(run: Run) -> dict[str, str]:
    manifest = saved_manifest(run)
    return {
        clip_name(manifest.path(row).resolve(), *manifest.interval(row), manifest.boxes_cell(row)): str(
            manifest.splits[row]
        )
        for row in range(len(manifest))
    }


def _write(
    folders: Sequence[Path], state: StateDict, candidates: Sequence[Candidate], *, method: str, out: Path | None
) -> Path:
    """A run folder of the averaged weights, which `evaluate`, `predict` and `report` take like any other."""
    name = f"{folders[0].resolve().name}-{method.replace(' ', '-')}"
    target = new_run_folder(name, out or Path("runs") / name)
    target.mkdir(parents=True, exist_ok=True)
    first = RunFolder(folders[0])
    files = (first.recipe, first.manifest, first.unknown, first.classes, first.tasks, first.environment, first.skipped)
    for file in files:
        if file.exists():
            shutil.copyfile(file, target / file.name)
    runs = [str(folder.resolve()) for folder in folders]
    tried = [asdict(candidate) for candidate in candidates]
    write_json(target / "average.json", {"method": method, "runs": runs, "tried": tried})
    model = load(folders[0])
    model.load_state_dict(state)
    taken = next(candidate for candidate in reversed(candidates) if candidate.taken)
    meta = {"epoch": None, "average": method, **taken.figures}
    save_checkpoint(target, "best", model, meta)
    return target
