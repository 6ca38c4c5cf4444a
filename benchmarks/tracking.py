"""HOTA of tracks on the quickstart's clips, with and without predicted motion, from every, every 2nd and 5th frame.

Detections are the true boxes with errors, so that only tracking differs: 10 % are missing, edges are moved by 4 % of
the box, some have a low score, and there are false ones. Motion is the true one with an error of a quarter.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from finetune.data.manifest import Manifest
from finetune.datasets.quickstart_objects import CLASSES, SPEEDS, draw_objects
from finetune.metrics.tracking import score_tracks, tracked_frames
from finetune.objects.detect import FrameOutput
from finetune.objects.predict_frames import PredictedFrame, predict_frames
from finetune.recipe.tasks import Task

MISSING, EDGE_ERROR, FALSE_PER_FRAME, MOTION_ERROR = 0.1, 0.04, 0.3, 0.25
SIZE = 96  # pixels, in which false detections lie
STEPS = (1, 2, 5)


def noisy_detections(objects_M9: np.ndarray, random: np.random.Generator, *, with_motion: bool) -> np.ndarray:
    """Detections (D, 8) of a frame's true objects (M, 9), with errors."""
    count = len(objects_M9)
    scores_M = np.clip(random.normal(0.75, 0.15, count), 0.1, 1)
    scores_M = np.where(random.random(count) < 0.15, random.uniform(0.15, 0.45, count), scores_M)
    boxes_M4 = objects_M9[:, 1:5] + random.normal(0, EDGE_ERROR, (count, 4)) * np.tile(objects_M9[:, 3:5], 2)
    motion_M2 = objects_M9[:, 5:7] * (1 + random.normal(0, MOTION_ERROR, (count, 2)))
    motion_M2 = motion_M2 if with_motion else np.full((count, 2), np.nan)
    detections_M8 = np.column_stack([boxes_M4, scores_M, objects_M9[:, 0], motion_M2])
    seen_M = random.random(count) >= MISSING
    false_F8 = np.full((random.poisson(FALSE_PER_FRAME), 8), np.nan)
    false_F8[:, :2], false_F8[:, 2:4] = random.uniform(0, SIZE - 20, (len(false_F8), 2)), 20
    false_F8[:, 4], false_F8[:, 5] = random.uniform(0.1, 0.6, len(false_F8)), random.integers(3, size=len(false_F8))
    return np.concatenate([detections_M8[seen_M], false_F8])


def predicted(frames: Sequence[np.ndarray], *, every: int, with_motion: bool, seed: int) -> Iterator[PredictedFrame]:
    random = np.random.default_rng(seed)
    detections = [noisy_detections(objects_M9, random, with_motion=with_motion) for objects_M9 in frames]
    recording = SimpleNamespace(info=SimpleNamespace(num_frames=len(frames)), times_N=np.arange(len(frames)) / 12)
    return predict_frames(
        lambda _, numbers: (FrameOutput(number, detections[number]) for number in numbers.tolist()),
        recording,
        CLASSES,
        every=every,
    )


def sequences(frames: Sequence[np.ndarray], predictions: Sequence[PredictedFrame]) -> list:
    detections, identities = [], []
    for frame in predictions:
        rows = [[*one.box, one.score, one.class_index, np.nan, np.nan] for one in frame.objects]
        detections.append(np.array(rows, dtype=float).reshape(-1, 8))
        identities.append(np.array([-1 if one.track is None else one.track for one in frame.objects], dtype=int))
    return [tracked_frames(frames, detections, identities, code=code) for code in range(len(CLASSES))]


def hota(clips: Sequence[Sequence[np.ndarray]], *, every: int, with_motion: bool) -> tuple[float, int]:
    of_clips = [
        part
        for seed, frames in enumerate(clips)
        for part in sequences(frames, list(predicted(frames, every=every, with_motion=with_motion, seed=seed)))
    ]
    scored = score_tracks(of_clips, groups=range(len(of_clips)))
    return scored["hota"], scored["switches"]


def read_clips(manifest: Manifest) -> dict[Path, list[np.ndarray]]:
    """The objects (M, 9) of the frames of each test clip: all of them are labelled."""
    by_path: dict[Path, list[np.ndarray]] = {}
    for row in manifest.rows("test").tolist():
        of_row = manifest.tasks["objects"].values[row]
        by_path.setdefault(manifest.path(row), []).append(of_row[of_row[:, 0] >= 0])
    return by_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where the generated clips are kept")
    options = parser.parse_args()
    path = options.cache / "objects.csv"
    if not path.exists():
        draw_objects(options.cache, scenes={"train": 1, "test": 15})
    clips = read_clips(Manifest.from_csv(path, tasks={"objects": Task(kind="track")}))
    print("| objects | computed | HOTA / switches | with motion |\n|---|---|---|---|")
    for speed in SPEEDS:
        of_speed = [frames for path, frames in clips.items() if path.stem.endswith(speed)]
        for every in STEPS:
            cells = [hota(of_speed, every=every, with_motion=with_motion) for with_motion in (False, True)]
            text = " | ".join(f"{figure:.3f} / {switches}" for figure, switches in cells)
            print(f"| {speed} | every {every} | {text} |", flush=True)


if __name__ == "__main__":
    main()
