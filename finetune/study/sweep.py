"""Train a recipe with several settings and rank them by their result on the split val."""

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
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe
from finetune.run.folder import RunFolder
from finetune.run.read import read_checkpoint_meta
from finetune.storage.atomic import write_json
from finetune.study.compare_on_val import refuse_without_val, score_difference
from finetune.study.several_runs import FinishedRun, StudyRun, finish_run, study_folder

Settings = tuple[str, ...]  # each key.sub=value


@dataclass(frozen=True)
class SweepPoint:
    """One combination of the swept settings, with its headline metric (top-1, mAP, …) and loss on the split val.

    `behind` is its accuracy minus the best one's (see `score_difference`), with the paired interval, corrected for
    the number of settings. Of a diverged run nothing else is known.
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
    if repeated := {key for key in keys if keys.count(key) > 1}:
        raise RecipeError(f"{min(repeated)} is set twice; list its values once: {min(repeated)}=a,b")
    values = [
        [f"{key}={value.strip()}" for value in split_outside_brackets(override.partition("=")[2])]
        for key, override in zip(keys, overrides, strict=True)
    ]
    return list(itertools.product(*values))


def split_outside_brackets(text: str) -> list[str]:
    """Split a text at the commas that are outside of brackets."""
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
    return tuple(values[0].partition("=")[0] for values in zip(*points, strict=True) if len(set(values)) > 1)


def fixed_settings(points: Sequence[Settings]) -> Settings:
    """The settings that all points share."""
    keys = swept_keys(points)
    return tuple(setting for setting in points[0] if setting.partition("=")[0] not in keys)


def refuse_swept_data(keys: Sequence[str]) -> None:
    """Raise RecipeError where data are swept."""
    if swept := [key for key in keys if key == "data" or key.startswith("data.")]:
        raise RecipeError(f"{swept[0]} cannot be swept: all runs must be evaluated on the same clips")


def load_point_recipes(name: str, points: Sequence[Settings]) -> list[Recipe]:
    """The recipe of each point. Raises RecipeError with the problems of all of them, and where data are swept."""
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
    """Train a recipe with each point's settings and evaluate it on the split val; the best first, diverged ones last.

    Each is a run in a folder of `out`, named by its swept settings. An interrupted sweep resumes, and one may be
    widened. Raises RunError where there are no val rows.
    """
    recipes = load_point_recipes(name, points)
    refuse_without_val(manifest)
    keys = swept_keys(points)
    with study_folder(out, load_recipe(name, fixed_settings(points)), manifest, {}):
        finished, diverged = [], []
        for number, (point, recipe) in enumerate(zip(points, recipes, strict=True), 1):
            swept = tuple(setting for setting in point if setting.partition("=")[0] in keys)
            run = StudyRun(folder_name(swept), recipe, manifest)
            try:
                done = finish_run(run, out=out, split="val", position=f"{number} of {len(points)}")
                finished.append(sweep_point(done, swept))
            except DivergedError:
                diverged.append(SweepPoint(swept, run.name, 0.0, (0.0, 0.0), None, has_diverged=True))
        return rank_points(finished, manifest, out, diverged=diverged)


def folder_name(settings: Settings) -> str:
    """The name of a run's folder: its swept settings, with a digest if they had to be changed for a file name."""
    text = ",".join(settings) or "run"
    name = re.sub(r"[^\w.=+,-]+", "-", text).strip("-")[:160]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def sweep_point(run: FinishedRun, settings: Settings) -> SweepPoint:
    """The result of a finished run."""
    _, value, interval = run.headline
    meta = read_checkpoint_meta(RunFolder(run.folder).checkpoint("best"))
    return SweepPoint(settings, run.folder.name, value, interval, meta["val_loss"])


def rank_points(
    points: Sequence[SweepPoint], manifest: Manifest, out: Path, *, diverged: Sequence[SweepPoint] = ()
) -> list[SweepPoint]:
    """The best first, each compared with it on the same clips, then the diverged; writes them to `out/sweep.json`.

    Raises DivergedError when all have diverged.
    """
    if not points:
        raise DivergedError(f"{out}: all settings diverged: the loss was not a finite number; lower the learning rates")
    best, *others = sorted(points, key=lambda point: (-point.figure, point.loss or 0.0))
    ranked = [best]
    for point in others:
        behind, interval = score_difference(out / point.run, out / best.run, manifest, comparisons=len(others))
        ranked.append(replace(point, behind=behind, behind_interval=interval))
    ranked += diverged
    write_json(out / "sweep.json", [_as_json(point) for point in ranked])
    return ranked


def _as_json(point: SweepPoint) -> dict[str, Any]:
    """JSON has no infinity: an unknown end of an interval is null."""
    intervals = {name: getattr(point, name) for name in ("interval", "behind_interval")}
    finite = {name: [end if math.isfinite(end) else None for end in ends] for name, ends in intervals.items()}
    return asdict(point) | finite
