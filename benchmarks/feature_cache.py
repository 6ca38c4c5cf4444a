"""Frozen work done once: what a phase costs against one pass over the clips, and against the usual loops.

The usual loops are plain fp32 PyTorch on what our loader decodes: a frozen backbone in evaluation mode under a head
that learns, and the whole network. They are timed first, before our run asks the C library to keep freed memory. One
epoch of each is timed and counted twenty times. All else is `finetune.fit` on the same clips, one fixed draw of each;
its epochs are timed from the end of one to the end of the next, checkpoints included. Memory is that of a process of
its own.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import timm
import torch
from clips import KINDS, Kind, make
from loader import FILES

import finetune as ft
import finetune.train.loop  # its imports take seconds, and are not what is timed
from finetune.data.manifest import Manifest
from finetune.model.frozen_prefix import cut_after_backbone, forward_before_cut
from finetune.runtime.device import autocast, keep_freed_memory, resolve_precision
from finetune.video.dataset import ClipDataset
from finetune.video.probe_files import scan_files

EPOCHS, USUAL_EPOCHS = 10, 20
TINY = Kind("tiny.mp4", "libx264", {"preset": "veryfast", "x264-params": "keyint=12"}, (64, 64), 16)
ROWS_OF_MEMORY = 60, 600
NOTHING = ft.Augment(preset="none", flip=False, cached_views=1)


@dataclass(frozen=True)
class Setting:
    """What all loops work on."""

    backbone: str
    rows: int
    folder: Path
    manifest: Manifest
    batch_size: int = 8
    size: int = 224


def main() -> None:
    """Print the ratios; with --quick of a smaller network on fewer clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-clips")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="resnet18 on 6 clips, without the figures of memory")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--entry", default="head", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        if options.memory_of:
            print(peak_mb(options.memory_of, options.entry, options.cache, Path(folder)))
            return
        backbone, rows = ("resnet18", 6) if options.quick else (options.backbone, options.rows)
        files = [make(options.cache, KINDS[name]) for name in (FILES[:1] if options.quick else FILES)]
        setting = Setting(backbone, rows, Path(folder), manifest_of(files, rows, Path(folder)))
        figures = measure(setting)
        if not options.quick:
            figures |= {f"memory, 10 × the rows, {entry}": grown(entry, options.cache) for entry in ("head", "layer4")}
    precision = resolve_precision("auto", torch.device("cpu"))
    print(f"{backbone}, {rows} clips of 8 frames at 224 px, {precision}, {os.cpu_count()} cores")
    for name, value in figures.items():
        print(f"{name:72}  {value:8.3f}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def measure(setting: Setting) -> dict[str, float]:
    """The ratios, each of figures taken one after the other in this process."""
    usual_head = usual(setting, learns_all=False)
    usual_whole = usual(setting, learns_all=True)
    one_pass = decode_and_forward(setting)
    head = Timed(setting, "head", cache="features", epochs=EPOCHS)
    uncached_head = Timed(setting, "head", cache="off", epochs=2)
    many = head.total + (USUAL_EPOCHS - EPOCHS) * head.later
    layer = Timed(setting, "layer4", cache="boundary", epochs=3)
    uncached_layer = Timed(setting, "layer4", cache="off", epochs=3)
    return {
        "head, 10 epochs ÷ one pass of decoding and forward": head.total / one_pass,
        "head, an epoch after the first ÷ an uncached one": head.later / uncached_head.later,
        "head, the same without writing checkpoints": head.later_inside / uncached_head.later_inside,
        "20 epochs of the usual loop with a frozen backbone ÷ ours": USUAL_EPOCHS * usual_head / many,
        "20 epochs of the usual loop of the whole network ÷ ours (head)": USUAL_EPOCHS * usual_whole / many,
        "layer4, a cached epoch ÷ an uncached one": layer.later / uncached_layer.later,
        "layer4, the same without writing checkpoints": layer.later_inside / uncached_layer.later_inside,
        "layer4, largest difference of losses, cached and not": layer.furthest_from(uncached_layer),
        "seconds of one pass of decoding and forward": one_pass,
    }


class Timed:
    """A run of one phase, in seconds: `total` with all computing of what is kept, `later` epochs as they pass."""

    def __init__(self, setting: Setting, train: str, *, cache: str, epochs: int) -> None:
        for kept in ("features", "run"):
            shutil.rmtree(setting.folder / kept, ignore_errors=True)
        torch.manual_seed(0)
        manifest = setting.manifest
        model = ft.build_model(setting.backbone, manifest.classes, weights="none", num_frames=8, size=setting.size)
        ends = []
        began = time.perf_counter()
        self.records: list[dict] = []

        def after_epoch(record: dict) -> None:
            ends.append(time.perf_counter())
            self.records.append(record)

        ft.fit(
            model,
            manifest,
            [ft.Phase(unfreeze=train, epochs=epochs)],
            clip=ft.Clip(num_frames=8),
            augment=NOTHING,
            train=ft.Train(batch_size=setting.batch_size, cache=cache, cache_dir=setting.folder / "features"),
            out=setting.folder / "run",
            quiet=True,
            after_epoch=after_epoch,
        )
        self.total = ends[-1] - began
        self.later = statistics.median(end - begin for begin, end in pairwise(ends))
        self.later_inside = statistics.median(sum(record["seconds"].values()) for record in self.records[1:])

    def furthest_from(self, other: "Timed") -> float:
        pairs = zip(self.records, other.records, strict=False)
        return max(abs(one["train_loss"] - two["train_loss"]) for one, two in pairs)


def usual(setting: Setting, *, learns_all: bool) -> float:
    """Seconds of an epoch of the loop as it is usually written; of the whole network a quarter is timed."""
    torch.manual_seed(0)
    net = timm.create_model(setting.backbone, num_classes=0)
    head = torch.nn.Linear(net.num_features, len(setting.manifest.classes))
    net.train(learns_all).requires_grad_(learns_all)
    learning = [*head.parameters(), *(net.parameters() if learns_all else ())]
    optimizer = torch.optim.SGD(learning, lr=1e-3, momentum=0.9)
    dataset = dataset_of(setting)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    rows = range(setting.rows // 4 if learns_all else setting.rows)
    started = time.perf_counter()
    for first in rows[:: setting.batch_size]:
        items = [dataset[row] for row in rows[first : first + setting.batch_size]]
        clips_BTCHW = (torch.stack([item["clips"][0] for item in items]) / 255 - mean) / std
        labels = torch.tensor([int(item["label"]) for item in items])
        optimizer.zero_grad()
        features = net(clips_BTCHW.flatten(0, 1)).unflatten(0, (len(items), -1)).mean(1)
        torch.nn.functional.cross_entropy(head(features), labels).backward()
        optimizer.step()
    return (time.perf_counter() - started) * setting.rows / len(rows)


def decode_and_forward(setting: Setting) -> float:
    """Seconds to decode each clip once and run our backbone on it, and no more."""
    manifest = setting.manifest
    model = ft.build_model(setting.backbone, manifest.classes, weights="none", num_frames=8, size=setting.size)
    ft.set_trainable(model, "head")
    model.eval()
    keep_freed_memory()
    cut, dataset = cut_after_backbone(model, 8), dataset_of(setting)
    precision = resolve_precision("auto", torch.device("cpu"))
    started = time.perf_counter()
    with autocast(precision, torch.device("cpu")):
        for first in range(0, setting.rows, setting.batch_size):
            last = min(setting.rows, first + setting.batch_size)
            forward_before_cut(model, torch.cat([dataset[row]["clips"] for row in range(first, last)]), cut)
    return time.perf_counter() - started


def dataset_of(setting: Setting) -> ClipDataset:
    clip = ft.Clip(num_frames=8, size=setting.size)
    facts = scan_files(setting.manifest)
    return ClipDataset(setting.manifest, "train", clip=clip, views=1, augment=NOTHING, facts=facts, drawn_views=1)


def manifest_of(files: list[Path], rows: int, folder: Path) -> Manifest:
    """As many files, each another one to whoever looks at its path."""
    (folder / "clips").mkdir()
    paths = []
    for row in range(rows):
        path = folder / "clips" / f"{row}{files[row % len(files)].suffix}"
        path.symlink_to(files[row % len(files)])
        paths.append(os.fsencode(path))
    labels = np.arange(rows) % 4
    classes = tuple(f"class {label}" for label in range(4))
    return Manifest(folder / "benchmark", classes, np.array(paths), labels, np.full(rows, "train"), None)


def grown(entry: str, cache: Path) -> float:
    """How many times more memory ten times as many rows take."""
    peaks = []
    for rows in ROWS_OF_MEMORY:
        command = [sys.executable, __file__, "--cache", str(cache), "--memory-of", str(rows), "--entry", entry]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout.splitlines()[-1]))
    return peaks[1] / peaks[0]


def peak_mb(rows: int, entry: str, cache: Path, folder: Path) -> float:
    """The most memory of this process while it fills a cache and learns from it for two epochs."""
    manifest = manifest_of([make(cache, TINY)], rows, folder)
    setting = Setting("resnet18", rows, folder, manifest, size=64)
    Timed(setting, entry, cache="boundary", epochs=2)
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # rusage counts the parent's memory too
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
