"""Videos with labelled frames: red squares and green bars move over a dark ground, with boxes, identities and masks.

Every `every`-th frame is labelled, one row of the manifest each. The last labelled frame of a video has no object.
`label` says whether a frame has more than one.
"""

import csv

import numpy as np
from grey import TINY
from PIL import Image

from finetune.data.manifest import Manifest
from finetune.data.object_labels import LabelledObject, objects_text
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import Task
from finetune.video.encode import write_video

WIDTH, HEIGHT, FRAMES, FPS = 80, 64, 12, 25
SHAPES = {"square": ((220, 40, 40), (14, 14)), "bar": ((40, 220, 40), (24, 10))}  # colour, (width, height)
CLASSES = ("background", "bar", "square")  # the mask's values 0, 1, 2
COLUMNS = ("path", "start", "end", "split", "group", "objects", "mask", "label")
TASKS = {
    "objects": {"kind": "detect"},
    "tracks": {"kind": "track"},
    "pixels": {"kind": "segment", "classes": CLASSES},
    "label": {"kind": "classify"},
}
SETTINGS = {
    "clip": {"num_frames": 3, "sampling": "around", "size": 64},
    "augment": {"preset": "light", "color_jitter": 0.0, "flip": True},
    "model": {"backbone": TINY, "weights": "none", "dropout": 0.0},
    "phases": [{"unfreeze": "all", "epochs": 1, "lr": 1e-3}],
    "train": {"batch_size": 4, "precision": "fp32"},
}


def draw_labelled_videos(folder, *, train=3, val=1, test=1, every=3, frames=FRAMES):
    """Write so many videos, a mask for each labelled frame and `objects.csv`, whose path is given."""
    random, rows = np.random.default_rng(0), []
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            rows += [row | {"split": split} for row in _draw(folder, f"{split}{number}", random, every, frames)]
    path = folder / "objects.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _draw(folder, name, random, every, frames):
    """The rows of one video, whose first object is gone in the second half, and its second one in the last quarter."""
    movers = [_mover(random, shape, frames) for shape in ("square", "bar")]
    movers = movers[: 1 + int(random.integers(2))] if name.startswith("val") else movers
    pictures, rows = np.full((frames, HEIGHT, WIDTH, 3), 20, np.uint8), []
    for frame in range(frames):
        mask, objects = np.zeros((HEIGHT, WIDTH), np.uint8), []
        for track, (shape, start, velocity) in enumerate(movers):
            if frame >= frames * (2 + track) // 4:
                continue
            colour, (width, height) = SHAPES[shape]
            x, y = np.rint(start + velocity * frame).astype(int).tolist()
            pictures[frame, y : y + height, x : x + width] = colour
            mask[y : y + height, x : x + width] = CLASSES.index(shape)
            objects.append(LabelledObject(shape, x, y, width, height, track))
        if frame % every == 0:
            rows.append(
                labelled_row(f"{name}.mp4", frame, objects, frames=frames) | {"mask": f"masks/{name}_{frame}.png"}
            )
            write_mask(folder / "masks" / f"{name}_{frame}.png", mask)
    write_video(folder / f"{name}.mp4", pictures, fps=FPS)
    return rows


def _mover(random, shape, frames):
    """A shape, its first place (x, y), and its velocity in pixels per frame, with which it stays in the picture."""
    room = np.array([WIDTH, HEIGHT]) - SHAPES[shape][1]
    start, end = random.uniform(0, room, 2), random.uniform(0, room, 2)
    return shape, start, (end - start) / frames


def labelled_row(path, frame, objects, *, frames=FRAMES, fps=FPS):
    """The row of one labelled frame: from halfway to the frame before it to halfway to the next one."""
    start, end = max(0, frame - 0.5) / fps, (frame + 0.5) / fps
    return {
        "path": path,
        "start": f"{start:g}",
        "end": "" if frame == frames - 1 else f"{end:g}",
        "group": path,
        "objects": objects_text(objects),
        "label": "many" if len(objects) > 1 else "few",
    }


def write_mask(path, mask):
    """A palette PNG with these values, uint8 (H, W)."""
    image = Image.fromarray(mask, mode="P")
    image.putpalette([0, 0, 0, *SHAPES["bar"][0], *SHAPES["square"][0]])
    image.save(path)


def tasks_of(*names):
    return {name: Task.model_validate(TASKS[name]) for name in names or TASKS}


def recipe_of_frames(manifest_csv, tasks=tuple(TASKS), **sections):
    """A recipe with these tasks, by name or as {name: settings}; `sections` are laid over SETTINGS."""
    settings = {"data": {"manifest": manifest_csv, "workers": 0}, **SETTINGS}
    for name, section in sections.items():
        is_mapping = isinstance(section, dict) and name != "phases"
        settings[name] = settings.get(name, {}) | section if is_mapping else section
    chosen = tasks if isinstance(tasks, dict) else {name: TASKS[name] for name in tasks}
    return Recipe.model_validate({"tasks": chosen, **settings})


def manifest_of_frames(recipe):
    return Manifest.from_csv(recipe.data.manifest, tasks=recipe.tasks)
