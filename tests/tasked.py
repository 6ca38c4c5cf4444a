"""Clips of several tasks: a bright square moves over a dark ground; a manifest tells its class, box, motion and more.

Some cells are empty: every third training row lacks the box, every fourth the motion, one the class.
"""

import csv

import numpy as np
from grey import TINY

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Recipe
from finetune.video.encode import write_video

SIDE, FRAMES = 32, 6
LEVELS = ("small", "middle", "large")
COLUMNS = ("path", "label", "split", "group", "x", "y", "w", "h", "dx", "dy", "shade", "size")
TASKS = {
    "way": {"kind": "classify", "columns": "label"},
    "box": {"kind": "box"},
    "track": {"kind": "motion"},
    "shade": {"kind": "regress"},
    "size": {"kind": "ordinal", "levels": LEVELS},
}
SETTINGS = {
    "clip": {"num_frames": 4, "size": SIDE},
    "augment": {"preset": "none", "flip": False},
    "model": {"backbone": TINY, "weights": "none", "dropout": 0.0},
    "phases": [{"unfreeze": "all", "epochs": 1, "lr": 1e-3}],
    "train": {"batch_size": 4, "precision": "fp32"},
}


def draw_clips(folder, *, train=8, val=4, test=4):
    """Write so many clips and `manifest.csv`, whose path is given; none of a split of which 0 are asked for."""
    random, rows = np.random.default_rng(0), []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            row = _draw(folder / f"{split}{number}.mp4", random, number) | {"split": split}
            if split == "train":
                row |= dict.fromkeys("xywh", "") if number % 3 == 2 else {}
                row |= {"dx": "", "dy": ""} if number % 4 == 3 else {}
                row |= {"label": ""} if number == 5 else {}
            rows.append(row)
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _draw(path, random, number):
    """A clip's row; the square's class is whether it moves to the right, by turns."""
    size, shade = 6 + 4 * (number % 3), int(random.integers(120, 250))
    dx, dy = (1 if number % 2 else -1) * random.uniform(0.5, 1.5), random.uniform(-0.5, 0.5)
    middle = (SIDE - size) / 2 + random.uniform(-4, 4, 2)
    frames = np.full((FRAMES, SIDE, SIDE, 3), 20, dtype=np.uint8)
    for frame in range(FRAMES):
        left, top = np.rint(middle + (frame - FRAMES // 2) * np.array([dx, dy])).astype(int).clip(0, SIDE - size)
        frames[frame, top : top + size, left : left + size] = shade
    write_video(path, frames, fps=25)
    x, y = np.rint(middle)
    return {
        "path": path.name,
        "label": "right" if number % 2 else "left",
        "group": path.stem,
        "x": x,
        "y": y,
        "w": size,
        "h": size,
        "dx": round(dx, 3),
        "dy": round(dy, 3),
        "shade": shade / 255,
        "size": LEVELS[number % 3],
    }


def recipe_of(manifest_csv, tasks=tuple(TASKS), **sections):
    """A recipe with these tasks, by name or as {name: settings}; `sections` are laid over SETTINGS."""
    settings = {"data": {"manifest": manifest_csv, "workers": 0}, **SETTINGS}
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section if isinstance(section, dict) else section
    chosen = tasks if isinstance(tasks, dict) else {name: TASKS[name] for name in tasks}
    return Recipe.model_validate({"tasks": chosen, **settings})


def manifest_of(recipe):
    return Manifest.from_csv(recipe.data.manifest, tasks=recipe.tasks)
