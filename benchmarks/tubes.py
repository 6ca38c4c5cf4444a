"""What each of two objects does: a classifier of crops that follow them beside one of whole frames.

    python benchmarks/tubes.py --out FOLDER [--detector RUN] [--seeds 1]

The clips are the quickstart's actors: two shapes that do different things. Both classifiers get the same rows; those of
whole frames are without boxes. With a detector, a run of the recipe quickstart_detection, the test rows are also
predicted in crops that follow its tracks instead of the true boxes.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

import finetune as ft
from finetune.data.tubes import parse_tube
from finetune.datasets.quickstart_actors import draw_actors
from finetune.metrics.boxes import box_iou_pairs
from finetune.objects.predict_frames import ObjectPredictor
from finetune.objects.track_rows import RowLengths, collect_tracks, rows_of_tracks
from finetune.run.read import read_results
from finetune.run.results import Results

SETTINGS = (  # of the recipe quickstart
    "augment={preset: light, flip: true}",
    "phases=[{unfreeze: head, epochs: 4, lr: 1e-3}, {unfreeze: all, epochs: 12, lr: 1e-3, layer_decay: 0.8}]",
)
SCENES = {"train": 40, "val": 6, "test": 12}
MIN_IOU = 0.3  # of a track and the true boxes, as the mean over frames


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--detector", type=Path)
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args()
    out = given.out.absolute()
    actors = out / "actors.csv"
    if not actors.exists():
        draw_actors(out, scenes=SCENES, processes=1)
    manifests = {"crops": actors, "whole frames": write_whole_frames(actors)}
    for seed in range(given.seeds):
        for name, manifest in manifests.items():
            run = out / "runs" / f"{name.replace(' ', '_')}-{seed}"
            if not (run / "evaluation").exists():
                settings = [f"data.manifest={manifest}", *SETTINGS, f"seed={seed}"]
                command = [sys.executable, "-m", "finetune", "train", "quickstart", *settings, "--out", str(run)]
                subprocess.run(command, check=True)
            results = read_results(run, "test")
            print(f"seed {seed}, {name}: {top1_text(results)}", flush=True)
        if given.detector is not None:
            tracked, missed = write_tracked(actors, given.detector)
            results = ft.evaluate(out / "runs" / f"crops-{seed}", f"data.manifest={tracked}", split="test")
            print(f"seed {seed}, crops around tracks: {top1_text(results)}; {missed} rows have no track")


def top1_text(results: Results) -> str:
    (task,) = results["tasks"].values()
    low, high = task["top1_ci"]
    return f"top-1 {task['top1']:.3f} ({low:.3f} to {high:.3f}) on {results['num_rows']} rows"


def write_whole_frames(actors: Path) -> Path:
    """The same rows without boxes; each gets a copy of its clip, as one clip cannot have two labels."""
    rows = read_rows(actors)
    for row in rows:
        path = actors.parent / row["path"]
        copy = path.with_name(f"{path.stem}-{row['track']}{path.suffix}")
        shutil.copy(path, copy)
        row["path"] = copy.relative_to(actors.parent).as_posix()
    return write_rows(actors.with_name("whole.csv"), rows, ("path", "label", "split", "group"))


def write_tracked(actors: Path, detector: Path) -> tuple[Path, int]:
    """The test rows with the boxes of the track that fits their true ones best, and how many have none."""
    predictor = ObjectPredictor(ft.open_run(detector))
    rows = [row for row in read_rows(actors) if row["split"] == "test"]
    tubes_of: dict[str, list] = {}
    tracked = []
    for row in rows:
        path = row["path"]
        if path not in tubes_of:
            recording, frames = predictor(actors.parent / path)
            tracks = collect_tracks(frames)
            tubes_of[path] = [found.clip.boxes for found in rows_of_tracks(recording, tracks, RowLengths(0.2))]
        fits = [(mean_iou(cell, row["boxes"]), cell) for cell in tubes_of[path]]
        best = max(fits, default=(0.0, ""))
        if best[0] >= MIN_IOU:
            tracked.append({**row, "boxes": best[1]})
    columns = ("path", "label", "boxes", "split", "group")
    return write_rows(actors.with_name("tracked.csv"), tracked, columns), len(rows) - len(tracked)


def mean_iou(cell: str, true_cell: str) -> float:
    """The mean IoU of two tubes over the frames of the second."""
    tube, true = parse_tube(cell), parse_tube(true_cell)
    frames = np.arange(true.frames_K[0], true.frames_K[-1] + 1)
    return float(box_iou_pairs(tube.boxes_at(frames), true.boxes_at(frames)).mean())


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Iterable[dict[str, str]], columns: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    main()
