"""`finetune train`: from a recipe to a run folder with its report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.errors import RecipeError
from finetune.recipe import Data, Recipe
from finetune.recipe_files import load_recipe

if TYPE_CHECKING:
    from finetune.manifest import Manifest


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (see `finetune recipes list`) or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, each key.sub=value: train.batch_size=16")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder itself; by default runs/<recipe>-<time>.")] = None,
) -> None:
    """Train by a recipe, test the result, write its report. The last line printed is the run folder."""
    settings = load_recipe(recipe, overrides or [])
    manifest = load_manifest(settings.data, seed=settings.seed)
    _check_model_names(settings)

    import torch

    from finetune.checkpoint import new_run_folder
    from finetune.evaluation import evaluate
    from finetune.infer import agreed, is_main_process, settle_device
    from finetune.report.page import write_report
    from finetune.train.loop import fit
    from finetune.train.start import new_model

    settle_device(settings.train.device)
    folder = agreed(new_run_folder(Path(recipe).stem, out))
    torch.manual_seed(settings.seed)
    model = new_model(settings, manifest)
    try:
        fit(
            model,
            manifest,
            settings.phases,
            clip=settings.clip,
            augment=settings.augment,
            train=settings.train,
            data=settings.data,
            evaluate=settings.evaluate,
            seed=settings.seed,
            out=folder,
        )
    except KeyboardInterrupt:
        _say_what_is_kept(folder)
        raise
    if not is_main_process():
        return
    split = next((name for name in ("test", "val") if len(manifest.rows(name))), "train")
    results = evaluate(folder, split=split, out=folder / "evaluation")
    page = write_report(folder)
    figures = results["tasks"]["label"]
    low, high = figures["top1_ci"]
    print(f"{split} top-1 {figures['top1']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {results['num_rows']} clips")
    print(f"report {page}")
    print(folder, flush=True)


def load_manifest(data: Data, *, seed: int) -> "Manifest":
    """The rows that a recipe's `data` names. Raises RecipeError unless it names exactly one of manifest and folder."""
    from finetune.manifest import Manifest

    if (data.manifest is None) == (data.folder is None):
        raise RecipeError(
            "a recipe needs one of data.manifest and data.folder: "
            "add data.folder=DIR (a folder for each class) or data.manifest=FILE.csv (columns path,label)"
        )
    read, source = (Manifest.from_folder, data.folder) if data.manifest is None else (Manifest.from_csv, data.manifest)
    assert source is not None
    return read(source, group_pattern=data.group_pattern, val=data.val, test=data.test, seed=seed)


def _check_model_names(settings: Recipe) -> None:
    """What can be said of the model before the libraries are imported, which takes seconds."""
    from finetune.model.names import check_name

    check_name(settings.model.backbone)
    weights = settings.model.weights
    if weights not in {"imagenet", "bundled", "none"} and not Path(weights).is_file():
        raise RecipeError(f"model.weights: there is no file {weights!r}; or say imagenet, bundled or none")


def _say_what_is_kept(folder: Path) -> None:
    if (folder / "checkpoints" / "best").is_dir():
        print(
            f"finetune: the best finished epoch is kept; score it with: finetune evaluate '{folder}'",
            file=sys.stderr,
        )
