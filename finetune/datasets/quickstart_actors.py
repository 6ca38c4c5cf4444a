"""Generate the quickstart's actors: 228 short clips of two shapes that do different things, with a row for each shape.

All move up or down; beside that they only glide, or also spin, pulse or shake. A classifier that sees whole frames
cannot know which of the two a row is about: it is right in half of the rows at most. Each scene has a clip of each pair
of actions. Which shape does what, and in which half of the picture, is random.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from zlib import crc32

import numpy as np

from finetune.datasets.quickstart import (
    FPS,
    MARGIN,
    SHAPES,
    SIZE,
    MovingShape,
    Rows,
    Scene,
    Task,
    draw_frames,
    draw_grain,
    draw_scene,
    draw_scenes,
    write_manifest,
)
from finetune.video.encode import write_video

COLUMNS = ("path", "label", "boxes", "track", "split", "group")
ACTIONS = ("glides", "spins", "pulses", "shakes")
PAIRS = tuple(combinations(ACTIONS, 2))
DEFAULT_SCENES = MappingProxyType({"train": 20, "val": 6, "test": 12})
KEYFRAME_EVERY = 6  # frames
PULSE, SHAKE = 0.25, 0.5  # shares of the radius
PERIODS = {"pulses": (9.0, 14.0), "shakes": (8.0, 11.0)}  # frames


def draw_actors(
    out: Path,
    *,
    seed: int = 0,
    scenes: Mapping[str, int] = DEFAULT_SCENES,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out/actors/<split>/<scene>_<pair>.mp4` and `out/actors.csv`, whose path is returned.

    `scenes` is the number in each split; each gives 6 clips. A row is one shape of a clip: `label` is what it does,
    `boxes` where it is, `frame:left,top,width,height;…`, `track` its number in the clip. `progress` is called with
    (scenes done, scenes). The files depend on the seed alone. The manifest is written last. `processes`: see
    `draw_quickstart`.
    """
    out = Path(out)
    manifest = out / "actors.csv"
    manifest.unlink(missing_ok=True)
    for split in scenes:
        (out / "actors" / split).mkdir(parents=True, exist_ok=True)
    rows = draw_scenes(_write_scene, out, scenes, seed=seed, processes=processes, progress=progress)
    write_manifest(manifest, rows, COLUMNS)
    return manifest


def _write_scene(task: Task) -> Rows:
    """Generate and write the clips of one scene; returns a row for each of their shapes."""
    out, seed, split, number = task
    rng = np.random.default_rng([seed, crc32(b"actors " + split.encode()), number])
    scene = draw_scene(rng)
    rows: Rows = []
    for pair, actions in enumerate(PAIRS):
        num_frames = int(rng.integers(24, 49))
        actors = plan_actors(rng, scene, actions, num_frames=num_frames)
        path = Path("actors", split, f"{number:03d}_{pair}.mp4")
        frames = draw_frames(rng, scene, actors, num_frames=num_frames, grain=draw_grain(rng, scene))
        write_video(out / path, np.stack(list(frames)), fps=FPS)
        for track, (action, actor) in enumerate(zip(actions, actors, strict=True)):
            cells = (path.as_posix(), action, keyframes(actor, num_frames), track, split, f"{split}-{number:03d}")
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def plan_actors(
    rng: np.random.Generator, scene: Scene, actions: tuple[str, str], *, num_frames: int
) -> list[MovingShape]:
    """Two shapes, each in one half of the picture."""
    lefts = rng.permutation([0, SIZE // 2]).tolist()
    return [
        _plan_actor(rng, scene, action, left=left, steps=num_frames - 1)
        for action, left in zip(actions, lefts, strict=True)
    ]


def _plan_actor(rng: np.random.Generator, scene: Scene, action: str, *, left: int, steps: int) -> MovingShape:
    """A shape that moves up or down within the half of the picture from column `left` on."""
    radius = scene.radius * rng.uniform(0.6, 0.7)
    drift = np.array([rng.uniform(-6, 6), rng.uniform(20, 60) * rng.choice([-1, 1])])
    turn = np.radians(rng.uniform(150, 340)) * rng.choice([-1, 1])
    shake = SHAKE * radius
    reach = np.abs(drift) / 2 + (1 + PULSE) * radius + MARGIN
    reach[0] = max(reach[0], abs(drift[0]) / 2 + radius + shake + MARGIN)
    return MovingShape(
        shape=SHAPES[rng.integers(len(SHAPES))],
        color=scene.colors[rng.integers(2)],
        radius=radius,
        center=np.array([left, 0]) + rng.uniform(reach, np.array([SIZE // 2, SIZE]) - 1 - reach),
        velocity=drift / steps,
        angle=rng.uniform(0, 2 * np.pi),
        spin=turn / steps if action == "spins" else 0.0,
        pulse=PULSE if action == "pulses" else 0.0,
        shake=shake if action == "shakes" else 0.0,
        period=rng.uniform(*PERIODS[action]) if action in PERIODS else 1.0,
    )


def keyframes(actor: MovingShape, num_frames: int) -> str:
    """The cell of the column `boxes`: every sixth frame and the last one."""
    frames = [*range(0, num_frames - 1, KEYFRAME_EVERY), num_frames - 1]
    boxes = (actor.box_at(frame - (num_frames - 1) / 2) for frame in frames)
    return ";".join(
        f"{frame}:" + ",".join(f"{side:.2f}" for side in box) for frame, box in zip(frames, boxes, strict=True)
    )
