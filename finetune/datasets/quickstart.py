"""Generate the quickstart data: 520 short clips of an arrow or a heart that rises, falls or spins.

The shape can be recognized in one frame, the motion only by the order of frames. Each scene (background, colours, size,
light) has one clip of each class, so that it gives no class away. A clip is defined by its pose in the middle and its
speed: played backwards it is, in distribution, a clip of the opposite motion.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zlib import crc32

import cv2
import numpy as np

from finetune.datasets.shapes import (
    background_colors,
    contrasting_color,
    draw_background,
    mask_box,
    outline_box,
    paint,
    shape_mask,
)
from finetune.storage.atomic import atomic_file
from finetune.video.encode import write_video

SHAPES = ("arrow", "heart")
MOTIONS = ("rises", "falls", "spins_left", "spins_right")
CLASSES = tuple(f"{shape}_{motion}" for shape, motion in product(SHAPES, MOTIONS))
COLUMNS = ("path", "label", "split", "group", "x", "y", "w", "h", "dx", "dy")
DEFAULT_GROUPS = MappingProxyType({"train": 40, "val": 10, "test": 15})
SIZE = 128
FPS = 25
MARGIN = 3
Task = tuple[Path, int, str, int]  # folder, seed, split, number of the scene in it
Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Scene:
    """What the clips of one group share. Lengths are in pixels, colours 0 to 255."""

    background_HWC: np.ndarray
    colors: tuple[np.ndarray, ...]
    radius: float
    noise: float  # standard deviation in grey levels


@dataclass(frozen=True)
class MovingShape:
    """A shape and its motion: its pose in the middle of the clip, and the change from frame to frame.

    Positions (x, y) and lengths are in pixels, angles in radians. Every `period` frames the radius pulses by the share
    `pulse`, and the shape shakes by `shake` pixels to either side.
    """

    shape: str
    color: np.ndarray
    radius: float
    center: np.ndarray
    velocity: np.ndarray
    angle: float
    spin: float
    pulse: float = 0.0
    shake: float = 0.0
    period: float = 1.0

    def mask_at(self, frames_from_middle: float) -> np.ndarray:
        """The coverage of the shape, uint8 (SIZE, SIZE)."""
        return shape_mask(self.shape, size=SIZE, **self._pose_at(frames_from_middle))

    def box_at(self, frames_from_middle: float) -> tuple[float, float, float, float]:
        """The box (x, y, width, height) around the part of the shape that is in the picture."""
        return outline_box(self.shape, size=SIZE, **self._pose_at(frames_from_middle))

    def _pose_at(self, frames_from_middle: float) -> dict[str, Any]:
        wave = np.sin(2 * np.pi * frames_from_middle / self.period)
        return {
            "center": (self.center + self.velocity * frames_from_middle + (self.shake * wave, 0)).tolist(),
            "radius": self.radius * (1 + self.pulse * wave),
            "angle": self.angle + self.spin * frames_from_middle,
        }


@dataclass(frozen=True)
class ClipPlan:
    """One clip: the shape that the label describes, and distractors behind it."""

    label: str
    num_frames: int
    mover: MovingShape
    distractors: tuple[MovingShape, ...]


def draw_quickstart(
    out: Path,
    *,
    seed: int = 0,
    groups: Mapping[str, int] = DEFAULT_GROUPS,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out/<split>/<class>/<group>.mp4` and the manifest, whose path is returned.

    `groups` is the number of scenes in each split; each gives 8 clips. `progress` is called with (clips done, clips).
    The files depend on the seed alone. The manifest is written last: where it exists, the data are complete. With
    `processes=1` everything happens in this process; other processes are spawned (a script needs a `__main__` guard).
    Columns x, y, w, h are the shape's box at frame `num_frames // 2`, dx, dy its centre's motion in pixels per frame.
    """
    out = Path(out)
    manifest = out / "manifest.csv"
    manifest.unlink(missing_ok=True)
    for split, label in product(groups, CLASSES):
        (out / split / label).mkdir(parents=True, exist_ok=True)
    tasks = [(out, seed, split, number) for split, count in groups.items() for number in range(count)]
    rows: list[dict[str, object]] = []
    for scene_rows in map_in_processes(_write_scene, tasks, processes=processes):
        rows += scene_rows
        if progress is not None:
            progress(len(rows), len(tasks) * len(CLASSES))
    write_manifest(manifest, rows, COLUMNS)
    return manifest


def draw_scenes(
    write_scene: Callable[[Task], Rows],
    out: Path,
    scenes: Mapping[str, int],
    *,
    seed: int,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> Rows:
    """The rows of all scenes, whose number in each split is `scenes`; `progress` gets (scenes done, scenes)."""
    tasks = [(out, seed, split, number) for split, count in scenes.items() for number in range(count)]
    rows: Rows = []
    for done, of_scene in enumerate(map_in_processes(write_scene, tasks, processes=processes), 1):
        rows += of_scene
        if progress is not None:
            progress(done, len(tasks))
    return rows


def map_in_processes(function: Callable[[Task], Rows], tasks: list[Task], *, processes: int) -> Iterator[Rows]:
    """The rows that a function returns for each task, in order; with one process in this one."""
    if processes == 1:
        yield from map(function, tasks)
        return
    context = get_context("spawn")  # forking is unsafe after torch or OpenCV started threads
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield from pool.map(function, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_scene(task: Task) -> Rows:
    """Generate and write the clips of one group; returns their rows of the manifest."""
    out, seed, split, number = task
    group = f"{split}-{number:03d}"
    rng = np.random.default_rng([seed, crc32(split.encode()), number])
    scene = draw_scene(rng)
    rows = []
    for label in CLASSES:
        clip = plan_clip(rng, scene, label=label)
        path = Path(split, label, f"{group}.mp4")
        write_video(out / path, draw_clip(rng, scene, clip=clip), fps=FPS)
        box = mask_box(clip.mover.mask_at(middle_offset(clip.num_frames)))
        dx, dy = (f"{speed:.4f}" for speed in clip.mover.velocity)
        rows.append(dict(zip(COLUMNS, (path.as_posix(), label, split, group, *box, dx, dy), strict=True)))
    return rows


def middle_offset(num_frames: int) -> float:
    """How many frames `num_frames // 2` is after the middle in time, which for even numbers is between two frames."""
    return num_frames // 2 - (num_frames - 1) / 2


def draw_scene(rng: np.random.Generator) -> Scene:
    colors = background_colors(rng)
    return Scene(
        background_HWC=draw_background(rng, colors, size=SIZE),
        colors=tuple(contrasting_color(rng, colors) for _ in range(4)),
        radius=rng.uniform(17, 24),
        noise=rng.uniform(1, 4),
    )


def plan_clip(rng: np.random.Generator, scene: Scene, *, label: str, frames: tuple[int, int] = (24, 49)) -> ClipPlan:
    """All random choices except the noise. Opposite motions differ in the sign of one speed only.

    The number of frames is drawn from [`frames[0]`, `frames[1]`).
    """
    shape, motion = label.split("_", 1)
    num_frames = int(rng.integers(*frames))
    steps = num_frames - 1
    radius = scene.radius * rng.uniform(0.93, 1.07)
    drift = rng.uniform(-7, 7, 2)
    travel, turn = rng.uniform(36, 66), np.radians(rng.uniform(150, 340))
    if motion in ("rises", "falls"):
        drift[1], turn = travel * (1 if motion == "falls" else -1), 0.0
    elif motion == "spins_left":
        turn = -turn
    reach = np.abs(drift) / 2 + radius + MARGIN
    mover = MovingShape(
        shape=shape,
        color=scene.colors[rng.integers(2)],
        radius=radius,
        center=rng.uniform(reach, SIZE - 1 - reach),
        velocity=drift / steps,
        angle=rng.uniform(0, 2 * np.pi),
        spin=turn / steps,
    )
    distractors = plan_distractors(rng, scene, steps=steps)
    return ClipPlan(label, num_frames, mover, distractors)


def plan_distractors(rng: np.random.Generator, scene: Scene, *, steps: int) -> tuple[MovingShape, ...]:
    """Up to three small shapes that move during `steps` frames."""
    return tuple(_plan_distractor(rng, scene, steps=steps) for _ in range(rng.integers(4)))


def _plan_distractor(rng: np.random.Generator, scene: Scene, *, steps: int) -> MovingShape:
    """A small shape that stands still, or moves up to 60 pixels in any direction."""
    direction = rng.uniform(0, 2 * np.pi)
    way = rng.uniform(15, 60) * rng.integers(2)
    return MovingShape(
        shape=("disc", "square", "triangle")[rng.integers(3)],
        color=scene.colors[rng.integers(2, 4)],
        radius=rng.uniform(3, 7),
        center=rng.uniform(8, SIZE - 8, 2),
        velocity=np.array([np.cos(direction), np.sin(direction)]) * way / steps,
        angle=rng.uniform(0, 2 * np.pi),
        spin=0.0,
    )


def draw_clip(rng: np.random.Generator, scene: Scene, *, clip: ClipPlan) -> np.ndarray:
    """The frames of a clip, uint8 (T, SIZE, SIZE, 3), with sensor noise."""
    grain = draw_grain(rng, scene)
    movers = (*clip.distractors, clip.mover)
    return np.stack(list(draw_frames(rng, scene, movers, num_frames=clip.num_frames, grain=grain)))


def draw_grain(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Sensor noise, int16 (2 SIZE, 2 SIZE, 3), of which each frame gets another part."""
    return rng.normal(0, scene.noise, (2 * SIZE, 2 * SIZE, 3)).round().astype(np.int16)


def draw_frames(
    rng: np.random.Generator, scene: Scene, movers: Iterable[MovingShape], *, num_frames: int, grain: np.ndarray
) -> Iterator[np.ndarray]:
    """Frames, uint8 (SIZE, SIZE, 3), of moving shapes, the last one in front; `grain` is the noise."""
    movers = tuple(movers)
    for index in range(num_frames):
        frame = scene.background_HWC.copy()
        for mover in movers:
            paint(frame, mover.mask_at(index - (num_frames - 1) / 2), color=mover.color)
        y, x = rng.integers(0, SIZE, 2)
        yield np.clip(frame + grain[y : y + SIZE, x : x + SIZE], 0, 255).astype(np.uint8)


def write_manifest(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
