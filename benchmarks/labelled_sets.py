"""Generated data sets with labels: clips of a shape that moves over a textured background, seen by a moving camera.

    python benchmarks/labelled_sets.py --out <folder> --kind order [--clips 240] [--uneven] [--seed 0]

What tells the classes of a set apart is known. In `appearance` it is the shape, which each frame shows. In `order` it
is the path: up, down, up and back, or down and back. All four pass each height equally often, so that neither one frame
nor all frames in an unknown order tell them apart. In `both` it is the shape and whether it moves up or down. Clips of
a group share background, colours, camera and noise. No class changes in a mirror, so that flips keep labels.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np

from finetune.datasets.shapes import background_colors, contrasting_color, draw_background, paint, shape_mask
from finetune.storage.atomic import atomic_file
from finetune.video.encode import write_video

Kind = Literal["appearance", "order", "both"]
SIZE, FPS = 160, 15  # width and height in pixels
CLIPS_IN_GROUP = 6
IMBALANCE = 20  # clips of the largest class / of the smallest, in an uneven set
CAMERA_REACH = 14  # pixels that the camera moves in each direction

# The height of the shape, 0 (top) to 1 (bottom), at a time from 0 to 1. Each is uniformly distributed over a clip.
PATHS: dict[str, Callable[[float], float]] = {
    "up": lambda time: 1 - time,
    "down": lambda time: time,
    "up_and_back": lambda time: abs(2 * time - 1),
    "down_and_back": lambda time: 1 - abs(2 * time - 1),
}
SHAPES = ("house", "spear", "bolt", "letter_y", "letter_t", "drop")
CLASSES: dict[Kind, tuple[str, ...]] = {
    "appearance": SHAPES,
    "order": tuple(PATHS),
    "both": tuple(f"{shape}_{path}" for shape, path in product(SHAPES[:3], ("up", "down"))),
}
DISTRACTORS = ("letter_e", "letter_f", "half_disc", "cross", "wedge", "key")


@dataclass(frozen=True, eq=False)
class Scene:
    """What the clips of one group share. Lengths are in pixels."""

    background_HWC: np.ndarray  # larger than a frame by CAMERA_REACH on each side
    colors: tuple[np.ndarray, ...]
    radius: float
    noise: float  # standard deviation in grey levels
    camera_speed: np.ndarray  # (x, y), turns per clip


@dataclass(frozen=True, eq=False)
class Track:
    """A shape that moves between `start` and `end`, (x, y) in pixels of the background, on one of PATHS."""

    shape: str
    color: np.ndarray
    radius: float  # halfway
    growth: float  # radius at `end` / radius at `start`
    start: np.ndarray
    end: np.ndarray
    path: str
    pace: float  # exponent of time: above 1 slow at first
    angle: float
    spin: float  # radians per clip

    def paint(self, frame_HWC: np.ndarray, *, time: float, camera: np.ndarray) -> None:
        """Draw it at `time` (0 to 1) on a frame whose left upper corner is at `camera` (x, y) of the background."""
        height = PATHS[self.path](time**self.pace)
        center = self.start + (self.end - self.start) * height - camera
        radius = self.radius * self.growth ** (height - 0.5)
        angle = self.angle + self.spin * (time - 0.5)
        mask = shape_mask(self.shape, size=SIZE, center=center, radius=radius, angle=angle)
        if mask.any():
            paint(frame_HWC, mask, color=self.color)


def main() -> None:
    """Print the paths of the manifests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that holds one folder per set")
    parser.add_argument("--kind", choices=CLASSES, nargs="+", default=list(CLASSES))
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--uneven", action="store_true", help="classes of geometrically falling size, 20 : 1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for kind in options.kind:
        print(make_set(options.out, kind, clips=options.clips, uneven=options.uneven, seed=options.seed))


def make_set(folder: Path, kind: Kind, *, clips: int = 240, uneven: bool = False, seed: int = 0) -> Path:
    """The manifest (path, label, group) of a set in `folder`; generated in about 0.05 s per clip unless it is there."""
    root = folder / f"{kind}-{clips}{'-uneven' if uneven else ''}-{seed}"
    manifest = root / "clips.csv"
    if manifest.is_file():
        return manifest
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, crc32(kind.encode())])
    labels = rng.permutation(labels_of(kind, clips, uneven=uneven))
    rows = []
    for number, label in enumerate(labels.tolist()):
        if number % CLIPS_IN_GROUP == 0:
            scene = draw_scene(rng)
        path = root / f"{number:04d}.mp4"
        write_video(path, draw_clip(rng, scene, label=label), fps=FPS)
        rows.append((path.name, label, f"scene-{number // CLIPS_IN_GROUP:03d}"))
    with atomic_file(manifest) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label", "group"), *rows])
    return manifest


def labels_of(kind: Kind, clips: int, *, uneven: bool) -> list[str]:
    """The class of each clip, by class. Uneven numbers fall geometrically to one in IMBALANCE, at least 2."""
    classes = CLASSES[kind]
    if not uneven:
        return [classes[number % len(classes)] for number in range(clips)]
    shares = IMBALANCE ** -np.linspace(0, 1, len(classes))
    counts = np.maximum(2, np.round(clips * shares / shares.sum()).astype(int))
    counts[0] += clips - counts.sum()
    return [label for label, count in zip(classes, counts, strict=True) for _ in range(count)]


def draw_scene(rng: np.random.Generator) -> Scene:
    colors = background_colors(rng)
    return Scene(
        background_HWC=draw_background(rng, colors, size=SIZE + 2 * CAMERA_REACH),
        colors=tuple(contrasting_color(rng, colors, distance=70) for _ in range(4)),
        radius=rng.uniform(16, 24),
        noise=rng.uniform(2, 8),
        camera_speed=rng.uniform(0.2, 0.8, 2),
    )


def draw_clip(rng: np.random.Generator, scene: Scene, *, label: str) -> np.ndarray:
    """Frames, uint8 (T, SIZE, SIZE, 3), of about two seconds."""
    shape, path = shape_and_path(rng, label)
    tracks = [*(_distractor(rng, scene) for _ in range(rng.integers(3))), _track(rng, scene, shape, path)]
    phase = rng.uniform(0, 1, 2)
    grain = rng.normal(0, scene.noise, (2 * SIZE, 2 * SIZE, 3)).round().astype(np.int16)
    frames = []
    for time in np.linspace(0, 1, int(rng.integers(26, 37))):
        camera = CAMERA_REACH * (1 + np.sin(2 * np.pi * (phase + scene.camera_speed * time)))
        x, y = camera.round().astype(int)
        frame_HWC = scene.background_HWC[y : y + SIZE, x : x + SIZE].copy()
        for track in tracks:
            track.paint(frame_HWC, time=float(time), camera=np.array([x, y]))
        left, top = rng.integers(0, SIZE, 2)
        noise_HWC = grain[top : top + SIZE, left : left + SIZE]
        frames.append(np.clip(frame_HWC + noise_HWC, 0, 255).astype(np.uint8))
    return np.stack(frames)


def shape_and_path(rng: np.random.Generator, label: str) -> tuple[str, str]:
    """Shape and path of a clip of this class, drawn at random where the class does not fix them."""
    if label in SHAPES:
        return label, str(rng.choice(list(PATHS)))
    if label in PATHS:
        return str(rng.choice(SHAPES)), label
    shape, path = label.rsplit("_", 1)
    return shape, path


def _track(rng: np.random.Generator, scene: Scene, shape: str, path: str) -> Track:
    """From top to bottom, up to 30 degrees from upright, and nearer; where it begins and how far it goes varies."""
    whole = SIZE + 2 * CAMERA_REACH
    length, slant = rng.uniform(55, 85), rng.uniform(-0.55, 0.55)
    way = length * np.array([np.sin(slant), np.cos(slant)])
    margin = 2 * CAMERA_REACH + scene.radius
    start = rng.uniform(margin - np.minimum(way, 0), whole - margin - np.maximum(way, 0))
    return Track(
        shape=shape,
        color=scene.colors[rng.integers(2)],
        radius=scene.radius * rng.uniform(0.85, 1.15),
        growth=rng.uniform(1.6, 2.6),
        start=start,
        end=start + way,
        path=path,
        pace=rng.uniform(0.8, 1.25),
        angle=rng.uniform(-0.6, 0.6),
        spin=rng.uniform(-1, 1),
    )


def _distractor(rng: np.random.Generator, scene: Scene) -> Track:
    """Another shape, which stands still or moves in any direction."""
    start = rng.uniform(10, SIZE + 2 * CAMERA_REACH - 10, 2)
    direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(20, 80) * rng.integers(2)
    return Track(
        shape=str(rng.choice(DISTRACTORS)),
        color=scene.colors[rng.integers(2, 4)],
        radius=scene.radius * rng.uniform(0.4, 0.9),
        growth=1.0,
        start=start,
        end=start + length * np.array([np.cos(direction), np.sin(direction)]),
        path=str(rng.choice(list(PATHS))),
        pace=1.0,
        angle=rng.uniform(0, 2 * np.pi),
        spin=rng.uniform(-1, 1),
    )


if __name__ == "__main__":
    main()
