"""Train a model on a manifest: `fit` takes the sections of a recipe, `fit_recipe` takes the recipe."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.arguments import check_arguments
from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.recipe.own_parts import part_name
from finetune.recipe.schema import Augment, Clip, Data, Evaluate, Phase, Recipe, Schedule, Train
from finetune.run.write import new_run_folder
from finetune.runtime.device import resolve_device
from finetune.runtime.processes import is_main_process, on_main_then_broadcast
from finetune.train.log.console import Display
from finetune.train.loop import run_training
from finetune.train.setup.resolve import resolve_recipe
from finetune.train.state.run_writer import RunStart


@check_arguments
def fit(
    model: VideoClassifier,
    manifest: Manifest,
    phases: Phase | Sequence[Phase] | Schedule | str,
    *,
    clip: Clip = Clip(),
    augment: Augment = Augment(),
    train: Train = Train(),
    data: Data = Data(workers=0),
    evaluate: Evaluate = Evaluate(),
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = False,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train a model on a manifest, phase by phase; returns the run folder, and the model has its best weights.

    `phases` is one phase, a list of them, or a built-in schedule, by its name, such as `lp_ft`. `out` is the new run
    folder, by default `runs/<backbone>-<time>`; `quiet` prints nothing.

    The best epoch has the highest top-1 on the split val (mean average precision, where rows may have several
    classes), and the lower loss among equals; without val rows it is the last. Of `data`, only `on_error`, `packed`,
    `workers` and `decode_timeout` are used. `after_epoch` is called with each line of metrics.jsonl; an exception in
    it ends the run, which can be resumed. Raises one FinetuneError for everything that is known to be wrong before the
    first batch, and DivergedError after too many steps whose loss or gradient is not finite.
    """
    recipe = Recipe(
        seed=seed,
        data=data,
        clip=clip,
        augment=augment,
        phases=phases,
        train=train,
        evaluate=evaluate,
    )
    return fit_recipe(model, manifest, recipe, out=out, quiet=quiet, after_epoch=after_epoch)


def fit_recipe(
    model: VideoClassifier,
    manifest: Manifest,
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    after_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train a model by a recipe; the run folder. See `fit`.

    The manifest and the model override what the recipe says about data, model and tasks.
    """
    resolve_device(recipe.train.device)
    folder = on_main_then_broadcast(lambda: new_run_folder(_short_name(model.settings.backbone), out))
    display = Display(quiet=quiet or not is_main_process())
    recipe, decided = resolve_recipe(model, manifest, recipe, folder=folder, display=display)
    start = RunStart(folder, decided=decided)
    return run_training(model, manifest, recipe, start, display=display, after_epoch=after_epoch)


def _short_name(backbone: Any) -> str:
    """A name for run folders: `resnet18` of `torchvision/resnet18`, `Net` of an own `package.module:Net`."""
    return Path(part_name(backbone).rpartition(":")[2]).name
