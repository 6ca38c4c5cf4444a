"""Clips a second of training: a plain fp32 loop, ours in each phase on packed videos, and the ceiling of that phase.

The plain loop is the usual pattern (zero_grad, forward, loss, backward, step; the whole network in float32) on clips
that lie in memory as normalised floats, so that it pays nothing for data. The ceiling is our model and optimizer on one
batch in memory. Each figure is taken in a process of its own, in turn, over as many steps, the first included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from clips import KINDS, make
from loader import FILES, manifest_of, pack_of
from torch import nn

import finetune as ft
from finetune.runtime.device import AUTOCAST_DTYPES, keep_freed_memory, resolve_precision

PHASES = ("head", "layer4", "all")
KINDS_OF_LOOP = ("plain", *(f"{loop} {phase}" for phase in PHASES for loop in ("ours", "ceiling")))


def main() -> None:
    """Print clips a second of each kind of loop, and the ratios."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-clips")
    options.add_argument("--backbone", default="resnet50")
    options.add_argument("--clips", type=int, default=4, help="in a batch")
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--one", choices=KINDS_OF_LOOP, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    if chosen.one:
        kind, _, phase = chosen.one.partition(" ")
        print(json.dumps({"plain": plain, "ours": ours, "ceiling": ceiling}[kind](chosen, phase)))
        return
    found: dict[str, list[float]] = {kind: [] for kind in KINDS_OF_LOOP}
    for _ in range(chosen.repeats):
        for kind in KINDS_OF_LOOP:
            done = subprocess.run(
                [sys.executable, *sys.argv, "--one", kind], check=True, capture_output=True, text=True
            )
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    speed = {kind: statistics.median(each) for kind, each in found.items()}
    precision = resolve_precision("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"{chosen.backbone}, batches of {chosen.clips} clips of 8 frames at 224 px, {precision}, clips/s, medians")
    print(f"{'learns':8}  {'ours':>6}  {'ceiling':>7}  {'ours ÷ ceiling':>14}  {'ours ÷ plain loop':>17}")
    for phase in PHASES:
        own, most = speed[f"ours {phase}"], speed[f"ceiling {phase}"]
        print(f"{phase:8}  {own:6.2f}  {most:7.2f}  {own / most:14.2f}  {own / speed['plain']:17.2f}")
    print(f"plain loop, whole network, fp32: {speed['plain']:.2f}")


def plain(chosen: argparse.Namespace, phase: str) -> float:
    """Clips a second of the loop as it is usually written."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model(chosen.backbone, num_classes=2).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    clips, labels = torch.randn(chosen.clips, 8, 3, 224, 224), torch.zeros(chosen.clips, dtype=torch.long)
    started = time.perf_counter()
    for _ in range(chosen.steps):
        optimizer.zero_grad()
        logits = model(clips.to(device).flatten(0, 1)).unflatten(0, (-1, 8)).mean(1)
        loss = nn.functional.cross_entropy(logits, labels.to(device))
        loss.backward()
        optimizer.step()
        loss.item()
    return chosen.clips * chosen.steps / (time.perf_counter() - started)


def ceiling(chosen: argparse.Namespace, phase: str) -> float:
    """Our step on a batch that lies in memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    model = ft.build_model(chosen.backbone, ["a", "b"], weights="none", size=224).to(device)
    ft.set_trainable(model, phase)
    model.train()
    optimizer = torch.optim.AdamW(ft.param_groups(model, lr=1e-4), fused=True)
    clips = torch.zeros(chosen.clips, 8, 3, 224, 224, dtype=torch.uint8)
    labels, precision = torch.zeros(chosen.clips, dtype=torch.long), resolve_precision("auto", device)
    started = time.perf_counter()
    for _ in range(chosen.steps):
        with torch.autocast(device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES):
            logits = model(clips.to(device))["label"]
        loss = nn.functional.cross_entropy(logits.float(), labels.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return chosen.clips * chosen.steps / (time.perf_counter() - started)


def ours(chosen: argparse.Namespace, phase: str) -> float:
    """`finetune.fit` on packed videos, waiting for data included, validation and checkpoints not."""
    manifest = manifest_of([make(chosen.cache, KINDS[name]) for name in FILES], chosen.clips * chosen.steps)
    model = ft.build_model(chosen.backbone, manifest.classes, weights="none", size=224)
    with tempfile.TemporaryDirectory() as folder:
        run = ft.fit(
            model,
            manifest,
            [ft.Phase(unfreeze=phase, epochs=1, lr=1e-4)],
            train=ft.Train(batch_size=chosen.clips),
            data=ft.Data(packed=pack_of(manifest, chosen.cache), workers="auto"),
            out=Path(folder) / "run",
            quiet=True,
        )
        return json.loads((run / "metrics.jsonl").read_text(encoding="utf-8"))["clips_per_second"]


if __name__ == "__main__":
    main()
