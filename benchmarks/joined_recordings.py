"""Recordings made of labelled clips: those of each group are joined, in random order, with pauses between them.

    python benchmarks/joined_recordings.py --clips <folder>/clips.csv --out <folder> [--folds 5] [--seed 0]

`clips.csv` has path,label,group. In a pause of 1.5 to 4 seconds the last frame of the clip before is held, then the
first frame of the clip after it: a pause shows the same people and place. Writes `<group>.mp4` (320 x 240 pixels) and,
for each fold, `fold<n>.csv` with path,start,end,label,split: groups of fold n are test, those of the next fold val.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import av
import cv2
import numpy as np

from finetune.video.encode import write_frames

WIDTH, HEIGHT, FPS = 320, 240, 30
PAUSE_FRAMES = (45, 120)
COLUMNS = ("path", "start", "end", "label", "split")


@dataclass
class Recording:
    """A joined recording in the making: its events (start, end, label) follow from the frames that were given out."""

    random: Random
    events: list[tuple[float, float, str]] = field(default_factory=list)
    count: int = 0

    def frames(self, clips: list[tuple[Path, str]]) -> Iterator[np.ndarray]:
        last = None
        for path, label in clips:
            frames = list(_decode(path))
            yield from self._held(last if last is not None else frames[0])
            yield from self._held(frames[0])
            start = self.count
            for frame in frames:
                self.count += 1
                yield frame
            self.events.append((start / FPS, self.count / FPS, label))
            last = frames[-1]
        assert last is not None
        yield from self._held(last)

    def _held(self, frame: np.ndarray) -> Iterator[np.ndarray]:
        for _ in range(self.random.randint(*PAUSE_FRAMES) // 2):
            self.count += 1
            yield frame


def _decode(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture_HWC = frame.to_ndarray(format="rgb24")
            yield cv2.resize(picture_HWC, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clips_of: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    with options.clips.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            clips_of[row["group"]].append((options.clips.parent / row["path"], row["label"]))
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[int, tuple[str, str, str, str]]] = []
    for place, group in enumerate(sorted(clips_of)):
        random = Random(f"{options.seed} {group}")
        clips = random.sample(clips_of[group], len(clips_of[group]))
        recording = Recording(random)
        write_frames(options.out / f"{group}.mp4", recording.frames(clips), fps=FPS)
        for start, end, label in recording.events:
            rows.append((place % options.folds, (f"{group}.mp4", f"{start:.6f}", f"{end:.6f}", label)))
    for fold in range(options.folds):
        split_of = {fold: "test", (fold + 1) % options.folds: "val"}
        with (options.out / f"fold{fold}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((*cells, split_of.get(of_row, "train")) for of_row, cells in rows)


if __name__ == "__main__":
    main()
