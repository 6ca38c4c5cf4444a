"""What freezing saves: peak memory and time of a training step of ResNet-50 by what learns, against inference.

python benchmarks/freeze.py [--clips 4] [--frames 8] [--size 224] [--repeats 3]

Each figure is taken in a process of its own, in turn, since the peak of a process never falls. On a GPU the memory is
what torch allocated there, else what the process took beyond what it had with the model in place: the least of the
repeats, since how freed blocks lie in the C library's heap adds up to the same again, by chance.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import finetune as ft
from finetune.runtime.device import AUTOCAST_DTYPES, keep_freed_memory, resolve_precision

KINDS = ("inference", "head", "layer4", "layer3", "all")
STEPS = 4


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbone", default="resnet50")
    options.add_argument("--clips", type=int, default=4)
    options.add_argument("--frames", type=int, default=8)
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen)))
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(chosen.repeats):
        for kind in KINDS:
            command = [sys.executable, *sys.argv, "--one", kind]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    taken = {
        kind: (min(one["peak_mb"] for one in each), statistics.median(one["seconds"] for one in each))
        for kind, each in found.items()
    }
    base_peak, base_seconds = taken["inference"]
    print(f"{chosen.backbone}, {chosen.clips} clips of {chosen.frames} frames at {chosen.size} px")
    print(f"{'what learns':12}  {'peak MB':>8}  {'÷ inference':>11}  {'s a step':>8}  {'÷ inference':>11}")
    for kind, (peak, seconds) in taken.items():
        print(f"{kind:12}  {peak:8.0f}  {peak / base_peak:11.2f}  {seconds:8.2f}  {seconds / base_seconds:11.2f}")


def measure(kind: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Peak memory in MB beyond the model's, and the median seconds of a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    precision = resolve_precision("auto", device)
    model = ft.build_model(chosen.backbone, ["a", "b"], weights="none", num_frames=chosen.frames, size=chosen.size).to(
        device
    )
    shape = (chosen.clips, chosen.frames, 3, chosen.size, chosen.size)
    clips, labels = torch.zeros(shape, dtype=torch.uint8, device=device), torch.zeros(chosen.clips, dtype=torch.long)
    labels = labels.to(device)
    optimizer = None
    if kind == "inference":
        model.eval()
    else:
        ft.set_trainable(model, kind)
        optimizer = torch.optim.AdamW(ft.param_groups(model, lr=1e-4), fused=True)
        optimizer.step()  # without gradients: nothing moves, and what it imports then is not counted
        model.train()
    before, seconds = _memory_mb(device, peak=False), []
    for _ in range(STEPS):
        started = time.perf_counter()
        with (
            torch.autocast(device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES),
            torch.set_grad_enabled(optimizer is not None),
        ):
            logits = model(clips)["label"]
        if optimizer is not None:
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"peak_mb": _memory_mb(device, peak=True) - before, "seconds": statistics.median(seconds[1:])}


def _memory_mb(device: torch.device, *, peak: bool) -> float:
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e6
    field = "VmHWM" if peak else "VmRSS"
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:")) / 1e3


if __name__ == "__main__":
    main()
