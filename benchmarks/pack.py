"""What a pack costs on the disk and saves in reading: CPU time a clip of 8 segment frames, ratios of medians.

Each clip is read from its video and from the pack in turn, in one thread. With FINETUNE_REAL, real clips too.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Clip
from finetune.video.augment import scaled_size
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.encode import write_video
from finetune.video.pack.read import Pack
from finetune.video.pack.write import pack
from finetune.video.sampling import sample_indices

ROUNDS = 5
CLIP = Clip(num_frames=8)
REAL_SETS = ("ut_interaction", "yoga_poses")


def draw(folder: Path, *, height: int, width: int) -> list[Path]:
    """Four videos of 120 frames: blurred noise that drifts over noise that stands still."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(4):
        still, drifting = (
            cv2.resize(rng.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8), (width, height))
            for _ in range(2)
        )
        frames = np.stack([still // 2 + np.roll(drifting, 3 * time, 1) // 2 for time in range(120)])
        paths.append(folder / f"{number}.mp4")
        write_video(paths[-1], frames)
    return paths


def sets(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    for height, width in ((256, 340), (1080, 1920)):
        (drawn := folder / str(height)).mkdir()
        yield f"drawn {width} x {height}", draw(drawn, height=height, width=width)
    if real := os.environ.get("FINETUNE_REAL"):
        for name in REAL_SETS:
            manifest = Manifest.from_csv(Path(real) / "data" / name / "clips.csv", val=0, test=0)
            yield name, [manifest.path(row) for row in range(0, len(manifest), 10)]


def packed(paths: list[Path], folder: Path) -> Pack:
    listed = folder.with_suffix(".csv")
    listed.write_text("path,label\n" + "".join(f'"{path}",{number % 2}\n' for number, path in enumerate(paths)))
    pack(Manifest.from_csv(listed, val=0, test=0), folder)
    return Pack(folder)


def milliseconds(paths: list[Path], readers: list, side: int) -> list[float]:
    """Median CPU time of a clip for each reader."""
    taken: list[list[float]] = [[] for _ in readers]
    for path in paths:
        info = probe(path)
        indices = sample_indices(CLIP, info.num_frames)
        size = scaled_size((info.height, info.width), min(side, info.height, info.width), fit="crop")
        for turn in range(ROUNDS + 1):
            for times, read in zip(taken, readers, strict=True):
                started = time.process_time()
                read(path, indices, size=size)
                times += [1000 * (time.process_time() - started)] * (turn > 0)
    return [statistics.median(times) for times in taken]


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':20} disk, packed/video   CPU ms a clip at 256: video   packed   ratio   at 224: ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, paths in sets(folder):
            reader = packed(paths, folder / f"{title} pack")
            files = sum(file.stat().st_size for file in reader.folder.iterdir())
            disk = files / sum(path.stat().st_size for path in paths)
            video, quick = milliseconds(paths, [read_frames, reader.read_frames], 256)
            other, scaled = milliseconds(paths, [read_frames, reader.read_frames], 224)
            print(f"{title:20} {disk:18.1f}   {video:27.1f} {quick:8.1f} {video / quick:7.1f} {other / scaled:15.1f}")


if __name__ == "__main__":
    main()
