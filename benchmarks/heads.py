"""Training of the head alone against the best probe: the same frozen features, in the same folds of whole groups.

    FINETUNE_WEIGHTS=<folder> python benchmarks/heads.py --cache <folder> --out <folder> [--only order] [--quick]

Each seed is another partition into folds. A head is compared with the probe that is fitted to the same vectors, and
with the best of all four probes, with paired intervals over groups. Probes see each clip as an evaluation does. Heads
learn from four draws of its frames, without other augmentation, and are tested on the features that probes see. With
--recipe, models are trained with a recipe's own phases and augmentation as well.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from labelled_sets import CLASSES, make_set

from finetune.data.manifest import Manifest
from finetune.evaluation.evaluate import evaluate
from finetune.metrics.intervals import widen_for_pooled_folds
from finetune.metrics.paired_tests import paired_test
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.run.checkpoint import load
from finetune.run.folder import RunFolder
from finetune.run.predictions_csv import read_task_predictions
from finetune.runtime.device import keep_freed_memory
from finetune.study.folds import fold_manifests
from finetune.study.probe import _compute_features, _Features, _predict_folds
from finetune.study.probe_classifiers import PROBE_CLASSIFIERS
from finetune.train.from_recipe import train_from_recipe
from finetune.train.log.console import Display

FOLDS = 5
HEADER = "| set | trained | top-1 | by seed | probe of the same pooling | difference | best probe | difference |"
REAL_SETS = ("ut_interaction", "yoga_poses")
# The probe that is fitted to the vectors that a head gets.
PROBES = {"mean": "logistic, mean of frames", "concat": "logistic, frames in order"}
HEAD_ONLY = ("augment.preset=none", "augment.flip=false", "train.cache=features")


def main() -> None:
    """Print a line for each head and recipe, and a table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--only", choices=[*CLASSES, *REAL_SETS], nargs="+", help="sets")
    parser.add_argument("--clips", type=int, default=240, help="clips of a generated set")
    parser.add_argument("--uneven", action="store_true", help="generated sets with classes of uneven size")
    parser.add_argument("--seeds", type=int, default=3, help="partitions into folds")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--epochs", type=int, default=20, help="of the head")
    parser.add_argument("--pooling", nargs="+", default=list(PROBES))
    parser.add_argument("--recipe", nargs="+", default=[], help="recipes to train as well, with their own phases")
    parser.add_argument("--set", nargs="+", default=[], help="settings of all runs, as key.sub=value")
    parser.add_argument("--cache", type=Path, default=temporary / "finetune-benchmark-heads", help="sets and features")
    parser.add_argument("--out", type=Path, help="folder for the runs; those that are finished are not repeated")
    parser.add_argument("--quick", action="store_true", help="60 clips, one epoch, one seed, to test that all runs")
    options = parser.parse_args()
    if options.quick:
        options.clips, options.seeds, options.epochs = 60, 1, 1
    torch.set_num_threads(1)
    keep_freed_memory()
    names = options.only or [*CLASSES, *(REAL_SETS if os.environ.get("FINETUNE_REAL") else ())]
    with tempfile.TemporaryDirectory() as folder:
        options.out = options.out or Path(folder)
        lines = [line for name in names for line in table_rows(name, options)]
    print("\n".join(["", HEADER, "|---" * 8 + "|", *lines]))


def table_rows(name: str, options: argparse.Namespace) -> list[str]:
    """The lines of the table for one set."""
    manifest = manifest_of(name, options)
    divided = [fold_manifests(manifest, FOLDS, val=0, seed=seed) for seed in range(options.seeds)]
    clips = _compute_features(recipe_of("folder", manifest, options), manifest, options.backbone, Display(quiet=True))
    assert len(clips.labels) == len(manifest), "a clip cannot be read"
    probes = {probe: probe_correct(probe, clips, divided, len(manifest.classes)) for probe in PROBE_CLASSIFIERS}
    for probe, correct_SN in probes.items():
        print(f"{name}: {probe} {correct_SN.mean():.3f}", flush=True)
    lines = []
    for trained, correct_SN in trained_models(manifest, clips, divided, options):
        lines.append(table_row((name, trained, correct_SN), probes, manifest.groups))
        print(lines[-1], flush=True)
    return lines


def manifest_of(name: str, options: argparse.Namespace) -> Manifest:
    """All clips of a set, in the split train."""
    if name in REAL_SETS:
        source = Path(os.environ["FINETUNE_REAL"]) / "data" / name / "clips.csv"
    else:
        source = make_set(options.cache / "sets", name, clips=options.clips, uneven=options.uneven)
    manifest = Manifest.from_csv(source)
    return replace(manifest, splits=np.full(len(manifest), "train"))


def recipe_of(recipe: str, manifest: Manifest, options: argparse.Namespace, more: Sequence[str] = ()) -> Recipe:
    source = manifest.source
    settings = [f"data.manifest={source}", "data.val=0", f"clip.size={224 if source.parent.name in REAL_SETS else 160}"]
    settings += [f"model.backbone={options.backbone}", f"train.cache_dir={options.cache / 'features'}"]
    return load_recipe(recipe, [*settings, *more, *options.set])


def probe_correct(probe: str, clips: _Features, divided: Sequence[Sequence[Manifest]], num_classes: int) -> np.ndarray:
    """Which clips the probe has right, each tested once per seed: bool (S, N)."""
    folds_S = [[(fold.rows("train"), fold.rows("test")) for fold in folds] for folds in divided]
    probs_SNK = [_predict_folds(PROBE_CLASSIFIERS[probe], clips, folds, num_classes) for folds in folds_S]
    return np.stack([probs_NK.argmax(1) == clips.labels for probs_NK in probs_SNK])


def trained_models(
    manifest: Manifest, clips: _Features, divided: Sequence[Sequence[Manifest]], options: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    """What is trained, and which clips its models have right, each tested once per seed: bool (S, N)."""
    head = [*HEAD_ONLY, f"phases={{schedule: head_only, epochs: {options.epochs}}}"]
    for pooling in options.pooling:
        recipe = recipe_of("folder", manifest, options, [*head, f"model.temporal={pooling}"])
        yield f"head, {pooling}", tested_correct(recipe, divided, options.out / pooling, clips)
    for name in options.recipe:
        recipe = recipe_of(name, manifest, options)
        yield f"recipe {name}", tested_correct(recipe, divided, options.out / Path(name).stem, None)


def tested_correct(
    recipe: Recipe, divided: Sequence[Sequence[Manifest]], out: Path, clips: _Features | None
) -> np.ndarray:
    """Which clips the models of all folds have right, bool (S, N); with `clips`, heads are tested on these features."""
    correct_SN = np.zeros((len(divided), len(divided[0][0])), bool)
    for seed, folds in enumerate(divided):
        for number, fold in enumerate(folds, 1):
            test = fold.rows("test")
            finished = out / fold.source.parent.name / f"seed-{seed}-fold-{number}" / "predicted.npy"
            if not finished.is_file():
                train_from_recipe(recipe.model_copy(update={"seed": seed}), fold, out=finished.parent)
                features_NTD = None if clips is None else clips.features_NTD[test]
                np.save(finished, predict_test(finished.parent, fold, features_NTD))
            correct_SN[seed, test] = np.load(finished) == fold.labels[test]
    return correct_SN


@torch.inference_mode()
def predict_test(run: Path, fold: Manifest, features_NTD: np.ndarray | None) -> np.ndarray:
    """Classes (N,) of the test rows by a trained run, from their frozen features if these are given."""
    if features_NTD is not None:
        model = load(run)
        return model.heads(model.temporal(torch.from_numpy(features_NTD)))[DEFAULT_TASK].argmax(1).numpy()
    tasks = evaluate(run, split="test", pictures=False)["tasks"]
    paths, probs_NK = read_task_predictions(RunFolder(run).evaluation("test"), DEFAULT_TASK, tasks)
    place = {path: number for number, path in enumerate(paths)}
    return probs_NK[[place[str(fold.path(row))] for row in fold.rows("test")]].argmax(1)


def table_row(trained: tuple[str, str, np.ndarray], probes: Mapping[str, np.ndarray], groups: np.ndarray | None) -> str:
    """A line of the table: a model, and how much better it is than two probes, by clips that each has right (S, N)."""
    name, model, correct_SN = trained
    by_seed = ", ".join(f"{top1:.3f}" for top1 in correct_SN.mean(1))
    cells = [name, model, f"{correct_SN.mean():.3f}", by_seed]
    best = max(probes, key=lambda probe: probes[probe].mean())
    for probe in (PROBES.get(model.removeprefix("head, ")), best):
        if probe is None:
            cells += ["", ""]
            continue
        difference, (low, high) = difference_to(probes[probe], correct_SN, groups)
        cells += [f"{probes[probe].mean():.3f} {probe}", f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"]
    return f"| {' | '.join(cells)} |"


def difference_to(
    first_SN: np.ndarray, other_SN: np.ndarray, groups: np.ndarray | None
) -> tuple[float, tuple[float, float]]:
    """Top-1 of the other minus that of the first, with a 95 % interval; a group is one unit in all seeds together."""
    assert groups is not None
    with widen_for_pooled_folds():
        test = paired_test(first_SN.ravel(), other_SN.ravel(), groups=np.tile(groups, len(first_SN)))
    return test.difference, test.interval


if __name__ == "__main__":
    main()
