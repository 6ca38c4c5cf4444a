"""A search for settings: each trial tries what the ones before it make likely, and hopeless ones are ended early."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.manifest import Manifest
from finetune.errors import DivergedError, RecipeError
from finetune.metrics.headline import epoch_sort_key, headline
from finetune.recipe.load import load_recipe
from finetune.study.study_runs import primary_task_metrics, refuse_without_val, study_folder, train_and_evaluate
from finetune.study.sweep import Settings, SweepPoint, folder_name, grid, point_of, rank_points, refuse_swept_data

if TYPE_CHECKING:
    import optuna

LOG_SCALE_RATIO = 10.0  # a range from one end to so many times that is searched on a log scale
STARTUP_TRIALS = 5  # trials that run to their end before any is ended early


def search(
    name: str, overrides: Sequence[str], manifest: Manifest, *, trials: int, out: Path
) -> tuple[list[SweepPoint], int]:
    """Try settings of a recipe, chosen by Optuna's TPE for their figure on the split val, as many as `trials`.

    Those that ran to their end, the best first, and how many were ended early: epochs below the median of the others',
    or a loss that is no number.
    `overrides` are ranges `key=low..high`, values to choose from `key=a,b`, or fixed. Goes on where it was interrupted,
    and when asked for more trials. Raises RecipeError, or RunError where there are no val rows.
    """
    space, fixed = parse_search_space(name, overrides)
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    refuse_swept_data(list(space))
    for key, each in space.items():
        for end in getattr(each, "choices", None) or (each.low, each.high):
            load_recipe(name, [*fixed, f"{key}={end}"])  # what cannot be is said before anything trains
    refuse_without_val(manifest)
    base = load_recipe(name, fixed)
    with study_folder(out, base, manifest, searched={key: str(each) for key, each in space.items()}):
        storage = JournalStorage(JournalFileBackend(str(out / "optuna.log")))
        study = optuna.create_study(study_name="sweep", storage=storage, direction="maximize", load_if_exists=True)
        known = study.get_trials(deepcopy=False)
        study.sampler = optuna.samplers.TPESampler(seed=base.seed + len(known))
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
        for each in known:
            if each.state == TrialState.RUNNING:  # interrupted: tried again, and gone on with in its folder
                study.enqueue_trial(each.params)
                study.tell(each.number, state=TrialState.FAIL)

        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        while len(study.get_trials(deepcopy=False, states=ended)) < trials:
            trial = study.ask(space)
            settings = _settings(trial.params)
            recipe = load_recipe(name, [*fixed, *settings])

            def end_early(record: dict[str, Any], trial: "optuna.Trial" = trial) -> None:
                trial.report(epoch_sort_key(record)[0], record["epoch"])
                if trial.should_prune():
                    raise optuna.TrialPruned

            try:
                run = train_and_evaluate(
                    recipe, manifest, out=out / folder_name(settings), split="val", after_epoch=end_early
                )
            except (optuna.TrialPruned, DivergedError):
                study.tell(trial, state=TrialState.PRUNED)
                continue
            study.tell(trial, headline(primary_task_metrics(run, "val"))[1])
        whole = {_settings(each.params) for each in study.get_trials(states=(TrialState.COMPLETE,))}
        points = [point_of(out / folder_name(settings), settings) for settings in sorted(whole)]
        return rank_points(points, manifest, out), len(study.get_trials(states=(TrialState.PRUNED,)))


def parse_search_space(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Settings]:
    """Optuna's distribution of each key that is searched, and the settings of a recipe that are fixed.

    Whole numbers only where the recipe takes no others. Raises RecipeError.
    """
    if find_spec("optuna") is None:
        raise RecipeError("a search needs the package optuna: pip install 'finetune[optuna]'; without it, write values")
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, Any] = {}
    fixed = []
    for override in overrides:
        key, _, value = override.partition("=")
        low, dots, high = value.partition("..")
        choices = [settings[0].partition("=")[2] for settings in grid([override])]
        if dots and _is_number(low) and _is_number(high):
            least, most = float(low), float(high)
            if least >= most:
                raise RecipeError(f"{override!r} is no range; write the lower end first")
            is_log = least > 0 and most >= LOG_SCALE_RATIO * least
            if low.isdigit() and high.isdigit() and not _takes(name, f"{key}={least + 0.5}"):
                space[key] = IntDistribution(int(low), int(high), log=is_log)
            else:
                space[key] = FloatDistribution(least, most, log=is_log)
        elif len(choices) > 1:
            space[key] = CategoricalDistribution(choices)
        else:
            fixed.append(override)
    if not space:
        raise RecipeError("nothing to search: give a range, phases.0.lr=1e-4..1e-2, or values, model.dropout=0.2,0.5")
    return space, tuple(fixed)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _takes(name: str, override: str) -> bool:
    """Whether a recipe is valid with a setting."""
    try:
        load_recipe(name, [override])
    except RecipeError:
        return False
    return True


def _settings(values: dict[str, Any]) -> Settings:
    """A trial's values as overrides, numbers to four digits."""
    return tuple(f"{key}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items())
