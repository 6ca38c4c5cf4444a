"""One of several runs that are seen as one: done already, gone on with, or begun."""

from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.checkpoint import load, new_run_folder
from finetune.evaluation import evaluate
from finetune.files import standing
from finetune.manifest import Manifest
from finetune.recipe import Phase, Recipe, Schedule
from finetune.train.loop import fit
from finetune.train.resume import resume
from finetune.train.start import new_model


def finished(
    recipe: Recipe,
    manifest: Manifest,
    phases: Sequence[Phase] | Schedule,
    *,
    out: Path,
    split: str,
    start: Path | None = None,
) -> Path:
    """The run in `out`, trained and scored on a split; what of it is there already is not done again.

    It starts from the weights of the run `start`, or from a new model.
    """
    if (scored(out, split) / "results.json").is_file():
        return out
    if standing(out / "checkpoints" / "last").is_dir():
        resume(out)
    else:
        new_run_folder("", out)
        torch.manual_seed(recipe.seed)
        fit(
            load(start) if start is not None else new_model(recipe, manifest),
            manifest,
            phases,
            clip=recipe.clip,
            augment=recipe.augment,
            train=recipe.train,
            data=recipe.data,
            evaluate=recipe.evaluate,
            seed=recipe.seed,
            out=out,
        )
    evaluate(out, split=split, out=scored(out, split))
    return out


def scored(run: Path, split: str) -> Path:
    """Where the evaluation of a run on a split is."""
    return run / "evaluation" if split == "test" else run / "evaluation" / split
