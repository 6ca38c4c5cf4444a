"""Clips a second of the loader against a Dataset as one writes it with OpenCV or torchcodec, and its memory.

The others do the same work: one frame from each of eight segments, a random crop of 60-100 % to 224 pixels, mirrored
half the time, uint8. All take turns on the same files with as many workers; starting them is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random

import cv2
import numpy as np
import torch
from clips import KINDS, Kind, make
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from finetune.data.manifest import Manifest
from finetune.recipe.schema import Augment, Clip
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.file_facts import FileFacts
from finetune.video.loader import ClipLoader
from finetune.video.probe_files import scan_files

FILES = ("H.264, no B", "H.264, 3 B", "H.264, 3 B, GOP 250", "VP9, WebM")
ROWS, BATCH_SIZE = 32, 8
TINY = Kind("tiny.mp4", "libx264", {"preset": "veryfast", "x264-params": "keyint=12"}, (64, 64), 16)
CROP_AND_FLIP = Augment(preset="light", color_jitter=0.0, flip=True)
MANY_ROWS, EPOCHS, SETTLED_EPOCH = 100_000, 200, 20


def main() -> None:
    """Print the tables of speed and of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-clips")
    parser.add_argument("--only", choices=["speed", "rows", "epochs"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.child:
        what, loader, number = options.child
        CHILDREN[what](options.cache, loader, int(number))
        return
    if options.only in (None, "speed"):
        print_speed(options.cache, options.repeats)
    if options.only in (None, "rows"):
        print_memory_of_rows(options.cache)
    if options.only in (None, "epochs"):
        print_growth(options.cache, options.epochs)


def print_speed(cache: Path, repeats: int) -> None:
    """Clips a second, medians over epochs in turn, and ratios to ours."""
    manifest = manifest_of([make(cache, KINDS[name]) for name in FILES], ROWS)
    makers: dict[str, Callable[[int], Iterable]] = {
        "ours": partial(ours, manifest),
        "OpenCV": partial(plain, manifest, read=read_with_opencv),
        "torchcodec": partial(plain, manifest, read=read_with_torchcodec),
    }
    if packed := pack_of(manifest, cache):
        makers["ours, packed"] = partial(ours, manifest, packed=packed)
    print(f"clips/s, {os.cpu_count()} cores, batches of {BATCH_SIZE}; in brackets: ours by it")
    for workers in (0, 2):
        with ExitStack() as stack:
            loaders = {name: stack.enter_context(_closing(maker(workers))) for name, maker in makers.items()}
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for turn in range(repeats + 1):
                for name, loader in loaders.items():
                    started = time.perf_counter()
                    clips = sum(len(batch["row"]) for batch in loader)
                    if turn:  # the first starts the workers
                        rates[name].append(clips / (time.perf_counter() - started))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        cells = [f"{name} {rate:.1f} ({medians['ours'] / rate:.2f})" for name, rate in medians.items()]
        print(f"{workers} workers:  " + "   ".join(cells), flush=True)


def manifest_of(files: list[Path], rows: int) -> Manifest:
    """The files over and over."""
    paths = np.array([os.fsencode(files[row % len(files)]) for row in range(rows)])
    labels = np.arange(rows) % len(files)
    classes = tuple(f"class {label}" for label in range(len(files)))
    return Manifest(files[0].parent / "benchmark", classes, paths, labels, np.full(rows, "train"), None)


def pack_of(manifest: Manifest, cache: Path) -> Path | None:
    """The files as a pack, where this version can make one."""
    if find_spec("finetune.video.pack.write") is None:
        return None
    from finetune.video.pack.write import pack

    pack(manifest, cache / "pack")
    return cache / "pack"


def ours(manifest: Manifest, workers: int, *, size: int = 224, packed: Path | None = None) -> ClipLoader:
    """The loader with the dataset as training makes it."""
    clip = Clip(num_frames=8, size=size)
    more = {"packed": packed} if packed else {"facts": facts_of(manifest)}
    dataset = ClipDataset(manifest, "train", clip=clip, views=1, augment=CROP_AND_FLIP, **more)
    return ClipLoader(dataset, EpochBatchSampler(len(dataset), BATCH_SIZE, seed=0), workers=workers)


def facts_of(manifest: Manifest) -> FileFacts:
    """Of few files over and over: each is looked at once, and then known wherever it stands."""
    few = {name: getattr(manifest, name)[: len(manifest.classes)] for name in ("paths", "labels", "splits")}
    scan_files(replace(manifest, **few))
    return scan_files(manifest)


def plain(manifest: Manifest, workers: int, *, read: Callable, size: int = 224) -> DataLoader:
    """What one writes: a list of paths and labels, a Dataset, a DataLoader."""
    items = [(str(manifest.path(row)), int(manifest.labels[row])) for row in range(len(manifest))]
    dataset = PlainDataset(items, read, size)
    forkserver = {"multiprocessing_context": "forkserver", "persistent_workers": True} if workers else {}
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers, worker_init_fn=one_thread, **forkserver)


class PlainDataset(Dataset):
    """One frame from each of eight equal parts, cropped and mirrored at random."""

    def __init__(self, items: list[tuple[str, int]], read: Callable, size: int) -> None:
        self.items = items
        self.read = read
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(size, scale=(0.6, 1), antialias=True), v2.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict:
        path, label = self.items[row]
        return {"clips": self.transform(self.read(path)), "label": label, "row": row}


def read_with_opencv(path: str) -> torch.Tensor:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    wanted, frames = _drawn(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), []
    for number in range(wanted[-1] + 1):
        capture.grab()
        if number in wanted:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def read_with_torchcodec(path: str) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder.get_frames_at(_drawn(len(decoder))).data


def _drawn(count: int) -> list[int]:
    rng = Random()
    return [rng.randrange(part * count // 8, max(part * count // 8 + 1, (part + 1) * count // 8)) for part in range(8)]


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def print_memory_of_rows(cache: Path) -> None:
    """Peak memory of eight workers over few rows and over a hundred thousand."""
    print(
        "peak memory in MB of the loader with 8 workers (PSS of all its processes), 16 frames of 64 × 64 pixels a file"
    )
    for name in LOADERS:
        few, many = (float(_child(cache, "rows", name, rows)) for rows in (1000, MANY_ROWS))
        print(
            f"{name:12} 1,000 rows: {few:.0f}   {MANY_ROWS:,} rows: {many:.0f}   growth {many - few:+.0f}", flush=True
        )


def print_growth(cache: Path, epochs: int) -> None:
    """Memory after 20 epochs and after 200: what grows shows."""
    for workers in (0, 2):
        with_train_defaults, last = map(float, _child(cache, "epochs", str(workers), epochs).split())
        met = "met" if abs(last / with_train_defaults - 1) <= 0.02 else "missed"
        print(
            f"{workers} workers, memory after {SETTLED_EPOCH} epochs {with_train_defaults:.0f} MB, "
            f"after {epochs} {last:.0f} MB: "
            f"{100 * (last / with_train_defaults - 1):+.1f} % (wanted: 2 % at most, {met})"
        )


def _child(cache: Path, what: str, name: str, number: int) -> str:
    command = [sys.executable, __file__, "--cache", str(cache), "--child", what, name, str(number)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def read_many_rows(cache: Path, name: str, rows: int) -> None:
    """Print the peak while 200 batches are read."""
    manifest = manifest_of([make(cache, TINY)], rows)
    with Peak() as peak, _closing(LOADERS[name](manifest, 8)) as loader:
        for _, _batch in zip(range(200), loader, strict=False):
            pass
    print(peak.megabytes)


def read_many_epochs(cache: Path, workers: str, epochs: int) -> None:
    """Print memory after a few epochs, and after all."""
    with ours(manifest_of([make(cache, TINY)], 16), int(workers), size=64) as loader:
        for epoch in range(1, epochs + 1):
            loader.batches.epoch = epoch
            for _ in loader:
                pass
            if epoch in (SETTLED_EPOCH, epochs):
                print(memory_of_family())


LOADERS = {"ours": partial(ours, size=64), "DataLoader": partial(plain, read=read_with_opencv, size=64)}
CHILDREN = {"rows": read_many_rows, "epochs": read_many_epochs}


def _closing(loader):
    """The loader as a context; a DataLoader has no close."""
    return loader if hasattr(loader, "__enter__") else nullcontext(loader)


class Peak:
    """The most memory in use by this process and its children, looked at every 0.2 s."""

    def __enter__(self) -> "Peak":
        self.megabytes = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.2):
            self.megabytes = max(self.megabytes, memory_of_family())


def memory_of_family() -> float:
    """MB of this process and all that come from it; what several share counts once (PSS)."""
    family, kilobytes = [os.getpid()], 0
    for process in family:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                family += map(int, (task / "children").read_text().split())
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024


if __name__ == "__main__":
    main()
