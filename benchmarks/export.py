"""How fast a run's network is in each runtime: torch eager and compiled, ONNX Runtime and OpenVINO; fp32, bf16, int8.

Exported folders are those in RUN/exported; what is missing there is left out. Each way is a process of its own that has
loaded and warmed up its model before the rounds. In a round every way computes the same number of clips, one at a time
(B = 1), in turn. Ratios are to torch eager at fp32 with as many threads, from the CPU time of all threads (which other
programs disturb little) and from the shortest wall time; the spread is that of CPU time over the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Compute = Callable[[], object]


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clips", type=int, default=16, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(WAYS[options.child](options.run), options.clips)
        return
    for threads in options.threads:
        measure(options.run, threads, clips=options.clips, rounds=options.rounds, only=options.only)


def measure(run: Path, threads: int, *, clips: int, rounds: int, only: list[str]) -> None:
    children = {way: start(way, run, threads, clips) for way in only}
    ready = {way: child for way, child in children.items() if child.stdout and child.stdout.readline() == "ready\n"}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ready}
    for _ in range(rounds):
        for way, child in ready.items():
            times[way].append(ask(child))
    print(f"\n{threads} threads\n{'':22}{'CPU ms a clip':>14}{'spread':>14}{'× eager, CPU':>14}{'× eager, wall':>15}")
    first = times["torch eager"]
    for way, measured in times.items():
        cpu = sorted(1000 * seconds / clips for seconds, _ in measured)
        by_cpu = statistics.median(seconds for seconds, _ in first) / statistics.median(
            seconds for seconds, _ in measured
        )
        by_wall = min(seconds for _, seconds in first) / min(seconds for _, seconds in measured)
        spread = f"{cpu[0]:.1f} to {cpu[-1]:.1f}"
        print(f"{way:22}{statistics.median(cpu):14.1f}{spread:>14}{by_cpu:14.2f}{by_wall:15.2f}")
    for child in children.values():
        child.kill()
        child.wait()


def start(way: str, run: Path, threads: int, clips: int) -> subprocess.Popen:
    command = [sys.executable, __file__, str(run), "--child", way, "--clips", str(clips)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def ask(child: subprocess.Popen) -> tuple[float, float]:
    """Seconds of CPU time and of wall time for one round."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    cpu, wall = map(float, child.stdout.readline().split())
    return cpu, wall


def serve(compute: Compute, clips: int) -> None:
    for _ in range(3):
        compute()
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(clips):
            compute()
        print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)


def in_torch(run: Path, *, precision: str = "fp32", compiled: bool = False) -> Compute:
    import torch

    import finetune as ft
    from finetune.runtime.device import autocast

    model = ft.load(run)
    clips = torch.randint(256, (1, model.num_frames, 3, model.size, model.size), dtype=torch.uint8)
    network = torch.compile(model) if compiled else model

    def compute() -> object:
        with torch.inference_mode(), autocast(precision, torch.device("cpu")):
            return network(clips)

    return compute


def exported(run: Path, name: str, *, precision: str | None = None) -> Compute:
    import torch

    import finetune as ft
    from finetune.inference.exported_session import open_session

    opened = ft.open_run(run / "exported" / name)
    info = opened.exported
    assert info is not None
    names = [output["name"] for output in info["outputs"]]
    threads = torch.get_num_threads()
    session = open_session(
        opened.folder, info["runtime"], names, precision=precision or info["precision"], threads=threads
    )
    frames = torch.randint(256, (1, *info["input"]["shape"][1:]), dtype=torch.uint8).numpy()
    return lambda: session(frames)


WAYS: dict[str, Callable[[Path], Compute]] = {
    "torch eager": in_torch,
    "torch compiled": lambda run: in_torch(run, compiled=True),
    "torch eager, bf16": lambda run: in_torch(run, precision="bf16"),
    "onnx": lambda run: exported(run, "onnx"),
    "onnx, int8": lambda run: exported(run, "onnx-int8"),
    "openvino": lambda run: exported(run, "openvino"),
    "openvino, bf16": lambda run: exported(run, "openvino", precision="bf16"),
    "openvino, int8": lambda run: exported(run, "openvino-int8"),
}

if __name__ == "__main__":
    main()
