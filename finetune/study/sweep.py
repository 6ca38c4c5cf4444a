"""The same recipe with other settings, each a run: which does best on the split val."""

import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import DivergedError, RecipeError
from finetune.metrics.headline import headline
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe
from finetune.storage.atomic import current_version, write_json
from finetune.storage.safe_read import read_json
from finetune.study.study_runs import (
    primary_task_metrics,
    refuse_without_val,
    score_difference,
    study_folder,
    train_and_evaluate,
)

Settings = tuple[str, ...]  # each key.sub=value


@dataclass(frozen=True)
class SweepPoint:
    """One setting of all that is swept, with its figure (top-1, mAP, …) and loss on the split val.

    `behind` is how far its share of clips with all of it right is from the best one's, with the paired interval, which
    is corrected for as many comparisons as there are; of a task that gives numbers, how far its figure is.
    """

    settings: Settings
    run: str
    figure: float
    interval: tuple[float, float]
    loss: float | None
    has_diverged: bool = False
    behind: float = 0.0
    behind_interval: tuple[float, float] = (0.0, 0.0)


def grid(overrides: Sequence[str]) -> list[Settings]:
    """Every combination of the values in overrides `key=a,b`; commas in brackets belong to a value."""
    keys = [override.partition("=")[0] for override in overrides]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise RecipeError(f"{min(twice)} is set twice; write its values in one: {min(twice)}=a,b")
    values = [
        [f"{key}={value.strip()}" for value in split_outside_brackets(override.partition("=")[2])]
        for key, override in zip(keys, overrides, strict=True)
    ]
    return list(itertools.product(*values))


def split_outside_brackets(text: str) -> list[str]:
    """The parts of a text between commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def swept_keys(points: Sequence[Settings]) -> Settings:
    """Keys that have more than one value."""
    return tuple(each[0].partition("=")[0] for each in zip(*points, strict=True) if len(set(each)) > 1)


def refuse_swept_data(keys: Sequence[str]) -> None:
    """Raise RecipeError."""
    if wrong := [key for key in keys if key == "data" or key.startswith("data.")]:
        raise RecipeError(f"{wrong[0]} cannot be swept: all runs have to be scored on the same clips")


def load_point_recipes(name: str, points: Sequence[Settings]) -> list[Recipe]:
    """The recipe of each point. Raises RecipeError with all that is wrong with any; data cannot be swept."""
    refuse_swept_data(swept_keys(points))
    recipes, problems = [], []
    for point in points:
        try:
            recipes.append(load_recipe(name, point))
        except RecipeError as error:
            problems += str(error).splitlines()
    if problems:
        raise RecipeError("\n".join(dict.fromkeys(problems)))
    return recipes


def sweep(name: str, points: Sequence[Settings], manifest: Manifest, *, out: Path) -> list[SweepPoint]:
    """Train a recipe with each point's settings and score it on the split val, the best first.

    Each is a run in a folder of `out`, named by what is swept; what is finished there is not done again, so that an
    interrupted sweep goes on, and one may be widened. Raises RunError where there are no val rows.
    """
    recipes = load_point_recipes(name, points)
    refuse_without_val(manifest)
    with study_folder(out, load_recipe(name, fixed_settings(points)), manifest):
        keys = swept_keys(points)
        found, diverged = [], []
        for point, recipe in zip(points, recipes, strict=True):
            swept = tuple(setting for setting in point if setting.partition("=")[0] in keys)
            run = out / folder_name(swept)
            try:
                found.append(point_of(train_and_evaluate(recipe, manifest, out=run, split="val"), swept))
            except DivergedError:
                diverged.append(SweepPoint(swept, run.name, 0.0, (0.0, 0.0), None, has_diverged=True))
        return rank_points(found, manifest, out, diverged=diverged)


def fixed_settings(points: Sequence[Settings]) -> Settings:
    """What all points have alike."""
    keys = swept_keys(points)
    return tuple(setting for setting in points[0] if setting.partition("=")[0] not in keys)


def folder_name(settings: Settings) -> str:
    """Of a run, from what is swept; with a digest where that is no name as it stands."""
    text = ",".join(settings) or "run"
    name = re.sub(r"[^\w.=+,-]+", "-", text).strip("-")[:160]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def point_of(run: Path, settings: Settings) -> SweepPoint:
    """What a finished run's files say."""
    _, value, interval = headline(primary_task_metrics(run, "val"))
    meta = read_json(current_version(run / "checkpoints" / "best") / "meta.json")
    return SweepPoint(settings, run.name, value, interval, meta["val_loss"])


def rank_points(
    points: Sequence[SweepPoint], manifest: Manifest, out: Path, *, diverged: Sequence[SweepPoint] = ()
) -> list[SweepPoint]:
    """The best first, each compared with it on the same clips; written as sweep.json.

    Raises DivergedError when there is nothing else.
    """
    if not points:
        raise DivergedError(f"{out}: no setting trained to its end: the loss was not a number; lower the rates")
    order = sorted(points, key=lambda point: (-point.figure, point.loss or 0.0))
    best, listed = order[0], order[:1]
    for point in order[1:]:
        behind, interval = score_difference(out / point.run, out / best.run, manifest, comparisons=len(order) - 1)
        listed.append(replace(point, behind=behind, behind_interval=interval))
    listed += diverged
    write_json(out / "sweep.json", [_in_json(point) for point in listed])
    return listed


def _in_json(point: SweepPoint) -> dict[str, Any]:
    """JSON has no infinity: an end that is not known is null."""
    ends = {name: getattr(point, name) for name in ("interval", "behind_interval")}
    known = {name: [end if math.isfinite(end) else None for end in pair] for name, pair in ends.items()}
    return asdict(point) | known
