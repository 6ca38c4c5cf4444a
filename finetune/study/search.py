"""Search for good settings with Optuna: each trial uses the results of those before it, and poor ones stop early."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.manifest import Manifest
from finetune.errors import DivergedError, RecipeError
from finetune.metrics.headline import epoch_sort_key
from finetune.recipe.load import load_recipe
from finetune.study.compare_on_val import refuse_without_val
from finetune.study.several_runs import FinishedRun, StudyRun, finish_run, read_finished_run, study_folder
from finetune.study.sweep import SweepPoint, folder_name, rank_points, sweep_point
from finetune.study.swept_settings import Settings, grid, refuse_swept_data

if TYPE_CHECKING:
    import optuna

LOG_SCALE_RATIO = 10.0  # ranges with at least this ratio of high to low are searched on a log scale
STARTUP_TRIALS = 5  # trials that run to their end before any is stopped early


def search(
    name: str, overrides: Sequence[str], manifest: Manifest, *, trials: int, out: Path
) -> tuple[list[SweepPoint], int]:
    """Run trials of a recipe; Optuna's TPE chooses their settings by the headline metric on the split val.

    `overrides` are ranges `key=low..high`, choices `key=a,b`, or fixed. Gives the finished trials, the best first, and
    how many were stopped early: below the median of the others after some epoch, or diverged. An interrupted search
    resumes, and one may be given more trials. Raises RecipeError, or RunError where there are no val rows.
    """
    space, fixed = parse_search_space(name, overrides)
    from optuna.trial import TrialState

    _refuse_invalid_settings(name, space, fixed)
    refuse_without_val(manifest)
    recipe = load_recipe(name, fixed)
    with study_folder(out, recipe, manifest, {"searched": {key: str(values) for key, values in space.items()}}):
        study = _open_optuna_study(out / "optuna.log", seed=recipe.seed)
        ended, finished = (TrialState.COMPLETE, TrialState.PRUNED), {}
        while (count := len(study.get_trials(deepcopy=False, states=ended))) < trials:
            trial = study.ask(space)
            settings = _settings(trial.params)
            run = StudyRun(folder_name(settings), load_recipe(name, [*fixed, *settings]), manifest)
            if done := _finish_trial(study, trial, run, out=out, position=f"trial {count + 1} of {trials}"):
                finished[settings] = done
        complete = {_settings(trial.params) for trial in study.get_trials(states=(TrialState.COMPLETE,))}
        for settings in complete - finished.keys():
            finished[settings] = read_finished_run(out / folder_name(settings), "val")
        points = [sweep_point(finished[settings], settings) for settings in sorted(complete)]
        return rank_points(points, manifest, out), len(study.get_trials(states=(TrialState.PRUNED,)))


def parse_search_space(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Settings]:
    """Optuna's distribution for each key that is searched, and the fixed settings.

    A range is of integers where its ends are and the recipe takes no fractions. Raises RecipeError.
    """
    if find_spec("optuna") is None:
        raise RecipeError(
            "a search needs the package optuna: pip install 'finetune-video[optuna]'; "
            "or leave out --trials and list values"
        )
    from optuna.distributions import CategoricalDistribution

    space: dict[str, Any] = {}
    fixed = []
    for override in overrides:
        key, _, value = override.partition("=")
        low, dots, high = value.partition("..")
        choices = [settings[0].partition("=")[2] for settings in grid([override])]
        if dots and _is_number(low) and _is_number(high):
            space[key] = _range(name, override, low, high)
        elif len(choices) > 1:
            space[key] = CategoricalDistribution(choices)
        else:
            fixed.append(override)
    if not space:
        raise RecipeError("nothing to search: give a range, phases.0.lr=1e-4..1e-2, or values, model.dropout=0.2,0.5")
    return space, tuple(fixed)


def _range(name: str, override: str, low: str, high: str) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    key, start, stop = override.partition("=")[0], float(low), float(high)
    if start >= stop:
        raise RecipeError(f"{override!r} is not a range; write the lower end first")
    is_log = start > 0 and stop >= LOG_SCALE_RATIO * start
    if low.isdigit() and high.isdigit() and not _is_valid(name, f"{key}={start + 0.5}"):
        return IntDistribution(int(low), int(high), log=is_log)
    return FloatDistribution(start, stop, log=is_log)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_valid(name: str, override: str) -> bool:
    try:
        load_recipe(name, [override])
    except RecipeError:
        return False
    return True


def _refuse_invalid_settings(name: str, space: Mapping[str, Any], fixed: Settings) -> None:
    """Raise RecipeError where the recipe does not take a choice or an end of a range."""
    refuse_swept_data(list(space))
    for key, values in space.items():
        for value in getattr(values, "choices", None) or (values.low, values.high):
            load_recipe(name, [*fixed, f"{key}={value}"])


def _open_optuna_study(log: Path, *, seed: int) -> "optuna.Study":
    """The study that a log file holds; a trial that was interrupted is the first to be tried again, in its folder."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(log)))
    study = optuna.create_study(study_name="sweep", storage=storage, direction="maximize", load_if_exists=True)
    earlier = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(earlier))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    for trial in earlier:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _finish_trial(
    study: "optuna.Study", trial: "optuna.Trial", run: StudyRun, *, out: Path, position: str
) -> FinishedRun | None:
    """Train and evaluate a trial's run and tell the study its result; None where it stopped early."""
    import optuna

    def stop_if_poor(record: dict[str, Any]) -> None:
        trial.report(epoch_sort_key(record)[0], record["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        finished = finish_run(run, out=out, split="val", position=position, after_epoch=stop_if_poor)
    except (optuna.TrialPruned, DivergedError):
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None
    study.tell(trial, finished.headline[1])
    return finished


def _settings(values: Mapping[str, Any]) -> Settings:
    """A trial's values as overrides, numbers to four digits."""
    return tuple(f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items())
