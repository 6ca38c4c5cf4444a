"""Generate the quickstart recordings: one to two minutes each, with events, pauses, and decoys that are no events.

An event is an arrow that rises or falls, or a heart that spins, for 1.4 to 3 seconds. Between events there are pauses;
in many of them a decoy shows for as long as an event: an arrow or a heart that stands still, or another shape that
moves like one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from zlib import crc32

import numpy as np

from finetune.datasets.quickstart import (
    MovingShape,
    Rows,
    Scene,
    Task,
    draw_frames,
    draw_grain,
    draw_scene,
    draw_scenes,
    plan_clip,
    plan_distractors,
    write_manifest,
)
from finetune.video.encode import write_frames

EVENTS = ("arrow_rises", "arrow_falls", "heart_spins")
DECOY_SHAPES = ("square", "star", "disc")
DECOY_MOTIONS = ("rises", "falls", "spins")
COLUMNS = ("path", "start", "end", "label", "split")
DEFAULT_RECORDINGS = MappingProxyType({"train": 16, "val": 4, "test": 6})
FPS = Fraction(25, 2)
SECONDS = (60, 120)  # of a recording
EVENT_FRAMES = (18, 38)  # fewest, and one more than most
PAUSE_FRAMES = (20, 60)
DECOY_SHARE = 0.4  # of the pauses


@dataclass(frozen=True)
class Part:
    """A stretch of a recording in which the same shapes move; `label` is empty where it is no event."""

    num_frames: int
    movers: tuple[MovingShape, ...]
    label: str = ""


def draw_recordings(
    out: Path,
    *,
    seed: int = 0,
    recordings: Mapping[str, int] = DEFAULT_RECORDINGS,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out/<split>/<number>.mp4` and the manifest with a row for each event, whose path is returned.

    `recordings` is the number in each split. `progress` is called with (recordings done, recordings). The files depend
    on the seed alone. The manifest is written last. `processes`: see `draw_quickstart`.
    """
    out = Path(out)
    manifest = out / "manifest.csv"
    manifest.unlink(missing_ok=True)
    for split in recordings:
        (out / split).mkdir(parents=True, exist_ok=True)
    rows = draw_scenes(_write_recording, out, recordings, seed=seed, processes=processes, progress=progress)
    write_manifest(manifest, rows, COLUMNS)
    return manifest


def _write_recording(task: Task) -> Rows:
    """Generate and write one recording; returns the rows of its events."""
    out, seed, split, number = task
    rng = np.random.default_rng([seed, crc32(b"recording " + split.encode()), number])
    scene = draw_scene(rng)
    parts = plan_recording(rng, scene)
    path, grain = Path(split, f"{number:03d}.mp4"), draw_grain(rng, scene)
    write_frames(
        out / path,
        (
            frame
            for part in parts
            for frame in draw_frames(rng, scene, part.movers, num_frames=part.num_frames, grain=grain)
        ),
        fps=FPS,
    )
    rows: Rows = []
    first = 0
    for part in parts:
        if part.label:
            times = (f"{float(frame / FPS):.2f}" for frame in (first, first + part.num_frames))
            rows.append(dict(zip(COLUMNS, (path.as_posix(), *times, part.label, split), strict=True)))
        first += part.num_frames
    return rows


def plan_recording(rng: np.random.Generator, scene: Scene) -> list[Part]:
    """Pauses and events in turn, a pause first and last; every event occurs equally often, in random order."""
    length = round(rng.uniform(*SECONDS) * float(FPS))
    parts, labels = _plan_pause(rng, scene), list[str]()
    while sum(part.num_frames for part in parts) < length - EVENT_FRAMES[1] - PAUSE_FRAMES[1]:
        labels = labels or rng.permutation(EVENTS).tolist()
        parts += [_plan_event(rng, scene, labels.pop()), *_plan_pause(rng, scene)]
    return parts


def _plan_event(rng: np.random.Generator, scene: Scene, label: str) -> Part:
    turning = {"heart_spins": ("heart_spins_left", "heart_spins_right")}.get(label, (label,))
    clip = plan_clip(rng, scene, label=turning[rng.integers(len(turning))], frames=EVENT_FRAMES)
    return Part(clip.num_frames, (*clip.distractors, clip.mover), label)


def _plan_pause(rng: np.random.Generator, scene: Scene) -> list[Part]:
    """Frames without an event; with a decoy between two empty stretches, or without."""
    if rng.uniform() >= DECOY_SHARE:
        return [_plan_empty(rng, scene, PAUSE_FRAMES)]
    half = (PAUSE_FRAMES[0] // 2, PAUSE_FRAMES[1] // 2)
    return [_plan_empty(rng, scene, half), _plan_decoy(rng, scene), _plan_empty(rng, scene, half)]


def _plan_empty(rng: np.random.Generator, scene: Scene, frames: tuple[int, int]) -> Part:
    num_frames = int(rng.integers(*frames))
    return Part(num_frames, plan_distractors(rng, scene, steps=num_frames))


def _plan_decoy(rng: np.random.Generator, scene: Scene) -> Part:
    clip = plan_clip(rng, scene, label=f"arrow_{DECOY_MOTIONS[rng.integers(3)]}", frames=EVENT_FRAMES)
    mover = clip.mover
    if rng.uniform() < 0.5:
        mover = replace(mover, shape=("arrow", "heart")[rng.integers(2)], velocity=np.zeros(2), spin=0.0)
    else:
        mover = replace(mover, shape=DECOY_SHAPES[rng.integers(3)])
    return Part(clip.num_frames, (*clip.distractors, mover))
