"""Train a recipe with several settings and rank them by their result on the split val."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.manifest import Manifest
from finetune.errors import DivergedError
from finetune.recipe.load import load_recipe
from finetune.run.folder import RunFolder
from finetune.run.read import read_checkpoint_meta
from finetune.storage.atomic import write_json
from finetune.study.compare_on_val import refuse_without_val, score_difference
from finetune.study.several_runs import FinishedRun, StudyRun, finish_run, study_folder
from finetune.study.swept_settings import Settings, fixed_settings, load_point_recipes, swept_keys


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
                done = finish_run(run, out=out, split="val", position=f"setting {number} of {len(points)}")
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
