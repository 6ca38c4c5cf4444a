"""All rules that weigh several tasks, on quickstart_multitask: the same rows, several seeds, figures on test.

    python benchmarks/weighting.py --seeds 3 --out /tmp/weighting [--jobs 2] [--quick]

Prints a table: each task's figure, the mean over seeds and how far seeds differ, and the mean relative gain over the
plain sum of the losses, with an interval over groups and seeds, from two seeds on. What is finished in --out is kept.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.study.relative_gains import relative_gains

BATCH = 8
RECIPE = "quickstart_multitask"
PLAIN = "plain sum"
WEIGHTINGS = {
    PLAIN: ("multitask.normalize_losses=none",),
    "0.3 / 0.5 / 0.2, as the posts": (
        *("multitask.normalize_losses=none", "tasks.action.weight=0.3"),
        *("tasks.box.weight=0.5", "tasks.motion.weight=0.2"),
    ),
    "fixed, by the first loss": (),
    "fixed, by the running loss": ("multitask.normalize_losses=running",),
    **{
        name: (f"multitask.weighting={name}",)
        for name in ("uncertainty", "dwa", "random", "famo", "gradnorm", "pcgrad", "cagrad", "aligned_mtl", "upgrad")
    },
}
QUICK = ("phases.0.epochs=1", *(f"phases.{phase}.{key}" for phase in (1, 2) for key in ("epochs=null", "steps=4")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="data/quickstart/manifest.csv")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    seeds = range(given.seeds)
    runs = {(rule, seed): given.out / f"{number}-{seed}" for seed in seeds for number, rule in enumerate(WEIGHTINGS)}
    train_all(runs, given)
    print(table(runs, given.seeds))


def train_all(runs: dict[tuple[str, int], Path], given: argparse.Namespace) -> None:
    """So many at a time, each with its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    waiting, under_way = list(runs.items()), []
    while waiting or under_way:
        while waiting and len(under_way) < given.jobs:
            (rule, seed), folder = waiting.pop(0)
            if not (folder / "evaluation" / "results.json").is_file():
                more = (
                    *WEIGHTINGS[rule],
                    *(QUICK if given.quick else ()),
                    f"seed={seed}",
                    f"data.manifest={given.data}",
                )
                command = [sys.executable, "-m", "finetune", "train", RECIPE, *more, "--out", str(folder)]
                log = folder.with_suffix(".log")
                log.parent.mkdir(parents=True, exist_ok=True)
                environment = os.environ | {"OMP_NUM_THREADS": threads}
                started = subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)
                under_way.append((rule, log, started))
        rule, log, process = under_way.pop(0)
        if process.wait():
            raise SystemExit(f"{rule}: see {log}")


def table(runs: dict[tuple[str, int], Path], seeds: int) -> str:
    lines = [["rule", "action top-1", "box mean IoU", "motion correlation", "ΔM over the plain sum", "s a step"]]
    for rule in WEIGHTINGS:
        folders = [runs[rule, seed] for seed in range(seeds)]
        results = [json.loads((each / "evaluation/results.json").read_text())["tasks"] for each in folders]
        cells = [rule]
        for task in results[0]:
            key = HEADLINE_METRICS[results[0][task]["kind"]][0]
            values = [each[task][key] for each in results]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if seeds > 1 else f"{values[0]:.3f}")
        pairs = {(task, seed): (runs[rule, seed], runs[PLAIN, seed]) for task in results[0] for seed in range(seeds)}
        gain, interval = relative_gains(pairs, split="test")[1]
        ends = "" if interval is None else f" ({interval[0]:+.1f} to {interval[1]:+.1f})"
        cells.append("" if rule == PLAIN else f"{gain:+.1f} %{ends}")
        cells.append(f"{np.median([seconds_of_a_step(each) for each in folders]):.2f}")
        lines.append(cells)
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def seconds_of_a_step(run: Path) -> float:
    """In the last epoch, in which all learns."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return BATCH / last["clips_per_second"]


if __name__ == "__main__":
    main()
