"""One of several runs that are seen as one: done already, gone on with, or begun."""

from pathlib import Path

from finetune.checkpoint import load, new_run_folder
from finetune.evaluation import evaluate, evaluation_folder
from finetune.files import standing
from finetune.manifest import Manifest
from finetune.recipe import Recipe
from finetune.train.resume import resume
from finetune.train.start import train_by


def finished(
    recipe: Recipe,
    manifest: Manifest,
    *,
    out: Path,
    split: str,
    start: Path | None = None,
) -> Path:
    """The run in `out`, trained and scored on a split; what of it is there already is not done again.

    It starts from the weights of the run `start`, or from a new model.
    """
    if (evaluation_folder(out, split) / "results.json").is_file():
        return out
    if standing(out / "checkpoints" / "last").is_dir():
        resume(out)
    else:
        new_run_folder("", out)
        train_by(recipe, manifest, out=out, model=None if start is None else load(start))
    evaluate(out, split=split)
    return out
