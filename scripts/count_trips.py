"""Count how many files and functions of the package one training step, `evaluate` and `predict` pass through.

A move is a call from a function in one file of the package to a function in another; a link is such a pair of
functions, however often it is used. Everything runs in this process, on 24 small clips that are made here. Usage:

python scripts/count_trips.py [--calls step|evaluate|predict]
"""

import argparse
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

import finetune as ft
from finetune.video.encode import write_video

PACKAGE = str(Path(ft.__file__).parent) + "/"
Place = tuple[str, str]  # file of the package, name of the function
BATCH_SIZE = 4


class Trace:
    """The calls of functions of the package, in order: (caller, called); a caller outside the package is None."""

    def __init__(self) -> None:
        self.calls: list[tuple[Place | None, Place]] = []

    def __enter__(self) -> "Trace":
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (called := place_of(frame)) is not None:
            caller = frame.f_back
            while caller is not None and place_of(caller) is None:
                caller = caller.f_back
            self.calls.append((None if caller is None else place_of(caller), called))


def place_of(frame: FrameType) -> Place | None:
    """Where a frame is in the package; comprehensions and lambdas belong to the function around them."""
    name = frame.f_code.co_filename
    if not name.startswith(PACKAGE) or frame.f_code.co_name in {"<module>", "<lambda>"}:
        return None
    if frame.f_code.co_name.startswith("<") and frame.f_back is not None:
        return place_of(frame.f_back)
    return name.removeprefix(PACKAGE), frame.f_code.co_qualname


def summarize(calls: list[tuple[Place | None, Place]]) -> str:
    files = {called[0] for _, called in calls}
    functions = {called for _, called in calls}
    moves = [(caller, called) for caller, called in calls if caller is not None and caller[0] != called[0]]
    return f"{len(files)} | {len(functions)} | {len(moves)} | {len(set(moves))}"


def make_clips(folder: Path) -> Path:
    """A manifest of 24 clips of two classes: 12 to train on, 4 to validate, 8 to test."""
    random, lines = np.random.default_rng(0), ["path,label,split,group"]
    for number in range(24):
        frames = random.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
        write_video(folder / f"{number}.mp4", frames)
        split = "train" if number < 12 else "val" if number < 16 else "test"
        lines.append(f"{number}.mp4,{'ab'[number % 2]},{split},{number // 2}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def trace_step(manifest: ft.Manifest, out: Path, *, workers: int) -> tuple[Path, list[tuple[Place | None, Place]]]:
    """Train for an epoch: the run folder, and the calls of its second step, with the reading of its batch."""
    backbone = "mobilenetv3_small_050.lamb_in1k"
    model = ft.build_model(backbone, manifest.classes, weights="none", num_frames=4, size=64)
    key = "unfreeze" if "unfreeze" in ft.Phase.model_fields else "train"
    phases = [ft.Phase.model_validate({key: "all", "epochs": 1, "lr": 1e-3})]
    clip, train = ft.Clip(num_frames=4, size=64), ft.Train(batch_size=BATCH_SIZE, device="cpu")
    ends: list[int] = []
    with Trace() as trace:
        hook = register_optimizer_step_post_hook(lambda *_: ends.append(len(trace.calls)))
        data = ft.Data(workers=workers)
        run = ft.fit(model, manifest, phases, clip=clip, train=train, data=data, out=out, quiet=True)
        hook.remove()
    return run, trace.calls[ends[0] : ends[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", choices=("step", "evaluate", "predict"), help="also list the moves of this trip")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = ft.Manifest.from_csv(make_clips(folder))
        run, step = trace_step(manifest, folder / "run", workers=0)
        _, step_with_workers = trace_step(manifest, folder / "workers", workers=2)
        with Trace() as evaluation:
            ft.evaluate(run)
        with Trace() as prediction:
            ft.predict(run, [folder / "23.mp4"])
        trips = {
            "step": step,
            "step, clips read in other processes": step_with_workers,
            "evaluate": evaluation.calls,
            "predict": prediction.calls,
        }
    print("| trip | files | functions | moves between files | links |\n|---|---|---|---|---|")
    for name, calls in trips.items():
        print(f"| {name} | {summarize(calls)} |")
    if given.calls:
        moves = Counter(
            (caller, called) for caller, called in trips[given.calls] if caller is not None and caller[0] != called[0]
        )
        for (caller, called), count in moves.most_common():
            print(f"{count:5} {caller[0]}:{caller[1]} -> {called[0]}:{called[1]}")


if __name__ == "__main__":
    main()
