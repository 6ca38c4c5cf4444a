"""Resume a run that was stopped or killed; the result is that of a run without the interruption."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.arguments import check_arguments
from finetune.errors import RecipeError
from finetune.feature_cache.cache_folder import list_cache_entries
from finetune.recipe.load import check_saved_recipe, list_overrides
from finetune.recipe.schema import Recipe, Schedule
from finetune.run.checkpoint import build_empty_model, load_checkpoint
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run, open_run, require_checkpoint
from finetune.runtime.device import resolve_device
from finetune.runtime.processes import is_main_process
from finetune.train.log.console import Display
from finetune.train.loop import EpochCallback, run_training
from finetune.train.setup.preflight import run_preflight_checks
from finetune.train.state.run_writer import RunStart
from finetune.train.state.state import read_state

SAME_RESULT = {"auto", "boundary"}  # values of train.cache that give the same result
# Settings that may change on resume: they change no result.
FREE = (
    *("data.workers", "data.decode_timeout", "train.save_every_minutes"),
    *("train.keep_checkpoints", "train.log_gradients", "train.trackers", "train.cache_dir", "train.cache_budget_gb"),
)


@check_arguments
def resume(
    run: str | Path | Run,
    overrides: str | Sequence[str] = (),
    *,
    data_root: str | Path | None = None,
    quiet: bool = False,
    after_epoch: EpochCallback | None = None,
) -> Path:
    """Resume a run from its last checkpoint; the run folder.

    On a CPU with the same number of threads the result is bit for bit that of a run that was never stopped.
    `overrides`, or changes in the run's recipe.yaml, may lengthen the run: more epochs of the last phase, more phases.
    A finished run is unchanged. `data_root` is where the run's files are now, if they were moved; its manifest.csv is
    updated. Raises RunError for a folder without a checkpoint, RecipeError for any other change of the recipe.
    """
    overrides = list_overrides(overrides)
    opened = open_run(run, overrides)
    require_checkpoint(opened, "training")
    folder = opened.folder
    recipe = opened.recipe
    if not any(override.startswith("train.cache_dir=") for override in overrides):
        recipe = without_foreign_cache_dir(recipe)
    state = read_state(folder)
    refuse_changed_recipe(state["recipe"], recipe)
    manifest = saved_manifest(opened, data_root=data_root)
    resolve_device(recipe.train.device)
    model = build_empty_model(opened)
    load_checkpoint(folder, "last", model)
    run_preflight_checks(model, manifest, recipe, folder=folder)
    display = Display(quiet=quiet or not is_main_process())
    return run_training(model, manifest, recipe, RunStart(folder, state), display=display, after_epoch=after_epoch)


def without_foreign_cache_dir(recipe: Recipe) -> Recipe:
    """The recipe with the user's own cache folder, unless the folder that the run names already is a feature cache.

    Otherwise a run folder from somebody else could make this program write files to any place.
    """
    cache_dir = recipe.train.cache_dir
    if cache_dir is None or list_cache_entries(cache_dir):
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"cache_dir": None})})


def refuse_changed_recipe(before: dict[str, Any], now: Recipe) -> None:
    """Raise RecipeError that lists all changes of the recipe that do more than lengthen the run."""
    first = check_saved_recipe(before, where="the recipe in state.pt")  # with defaults for newer settings
    assert not isinstance(now.phases, Schedule)
    if isinstance(first.phases, Schedule):
        raise RecipeError("the recipe in state.pt is not the one that the run was started with; start another run")
    old, new = (dict(_flatten(recipe.model_dump(mode="json"))) for recipe in (first, now))
    count, last = len(first.phases), first.phases[-1]

    def lengthens(key: str) -> bool:
        if now.train.schedule_over == "run" or not key.startswith("phases."):
            return False  # a longer schedule over the run would have had other learning rates in the finished steps
        number, _, setting = key.removeprefix("phases.").partition(".")
        if int(number) < count:
            is_last = int(number) == count - 1 and setting == "epochs" and last.steps is None
            return is_last and (new.get(key) or 0) >= last.num_epochs(1)
        return True

    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if {old.get("train.cache"), new.get("train.cache")} <= SAME_RESULT:
        changed = [key for key in changed if key != "train.cache"]
    refused = [key for key in changed if key not in FREE and not lengthens(key)]
    if refused:
        listed = "\n".join(f"{key} was {old.get(key)}, not {new.get(key)}" for key in refused)
        raise RecipeError(
            f"{listed}\na resumed run keeps its recipe; it can only be made longer (more epochs of the last phase, "
            "more phases). For other settings, start another run"
        )


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, value
        return
    for key, item in items:
        yield from _flatten(item, f"{name}.{key}".lstrip("."))
