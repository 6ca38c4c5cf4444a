"""How accurate a recipe is on few real clips: UT-Interaction, a fifth of the sequences tested by a model of the rest.

Every fold is a whole run: `finetune.fit` on the clips of 16 sequences, with no split to choose an epoch by, then
`finetune.evaluate` on the other four. A fold that has been evaluated is not run again, so that this can be interrupted.
"""

import argparse
import csv
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from temporal import FOLDS, folds_of

import finetune as ft
from finetune.scores import score


def main() -> None:
    """Train and test the folds that are left, print what each gave, then what they give together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of the recipe, as clip.num_frames=8")
    parser.add_argument("--recipe", default="few_clips")
    parser.add_argument("--real", type=Path, default=os.environ.get("FINETUNE_REAL"), help="folder with the real clips")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-runs")
    parser.add_argument("--folds", type=int, nargs="+", default=range(FOLDS), help="only these, as of another process")
    parser.add_argument("--seed", type=int, default=0, help="of the folds, and of training")
    options = parser.parse_args()
    if options.real is None:
        print("needs real clips: set FINETUNE_REAL to their folder, and FINETUNE_WEIGHTS to that of the weights")
        return
    manifest = ft.Manifest.from_csv(options.real / "data/ut_interaction/clips.csv")
    recipe = ft.load_recipe(options.recipe, [*options.overrides, f"seed={options.seed}"])
    tested = []
    every = folds_of(manifest, seed=options.seed)
    for number in options.folds:
        _, rows = every[number]
        splits = np.full(len(manifest), "train")
        splits[rows] = "test"
        fold = replace(manifest, splits=splits)
        run = options.out / f"seed{options.seed}-fold{number}"
        if not (run / "evaluation" / "predictions.csv").is_file():
            train_and_test(recipe, fold, run)
        print_figures(f"fold {number}, {len(rows)} clips", fold, [run])
        tested.append(run)
    print_figures("together", manifest, tested)


def train_and_test(recipe: ft.Recipe, manifest: ft.Manifest, run: Path) -> None:
    """What `finetune train` does; what an interrupted run has left is removed before."""
    shutil.rmtree(run, ignore_errors=True)
    torch.manual_seed(recipe.seed)
    model = ft.build_model(
        recipe.model.backbone,
        manifest.classes,
        weights=recipe.model.weights,
        temporal=recipe.model.temporal,
        dropout=recipe.model.dropout,
        num_frames=recipe.clip.num_frames,
        size=recipe.clip.size,
    )
    ft.fit(
        model,
        manifest,
        recipe.phases,
        clip=recipe.clip,
        augment=recipe.augment,
        train=recipe.train,
        data=recipe.data,
        evaluate=recipe.evaluate,
        seed=recipe.seed,
        out=run,
        quiet=True,
    )
    ft.evaluate(run)


def print_figures(name: str, manifest: ft.Manifest, runs: list[Path]) -> None:
    """Top-1 of the clips that some runs were tested on, its interval over sequences, and each class's recall."""
    predicted = {}
    for run in runs:
        with (run / "evaluation" / "predictions.csv").open(encoding="utf-8") as file:
            predicted.update({row["path"]: row["predicted"] for row in csv.DictReader(file)})
    rows = [row for row in range(len(manifest)) if str(manifest.path(row)) in predicted]
    codes = [manifest.classes.index(predicted[str(manifest.path(row))]) for row in rows]
    certain_NK = np.eye(len(manifest.classes))[codes]
    figures = score(manifest.labels[rows], certain_NK, classes=manifest.classes, groups=manifest.groups[rows])
    low, high = figures["top1_ci"]
    recalls = ", ".join(f"{each['class']} {each['recall']:.2f}" for each in figures["per_class"])
    print(f"{name}: top-1 {figures['top1']:.3f}, 95 % interval {low:.2f} to {high:.2f}; {recalls}", flush=True)


if __name__ == "__main__":
    main()
