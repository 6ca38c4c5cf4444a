"""Tiny runs in several processes, one after the other: `torchrun together.py DATA OUT SPECIAL [DATA OUT SPECIAL …]`."""

import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from framed import manifest_of_frames, recipe_of_frames
from grey import TINY
from tasked import TASKS, manifest_of, recipe_of

import finetune as ft
from finetune.runtime.device import resolve_device
from finetune.runtime.processes import process_count
from finetune.train.from_recipe import train_from_recipe
from finetune.train.position import Tally

PHASES = (
    ft.Phase(unfreeze="head", epochs=1, lr=1e-2),
    ft.Phase(unfreeze="layer4", epochs=2, lr=1e-3),
    ft.Phase(unfreeze="all", epochs=1, lr=1e-3, layer_decay=0.8),
)
STARTED = (ft.Phase(unfreeze="head", epochs=1, lr=1e-4),)
LEARNING_STATISTICS = (ft.Phase(unfreeze="layer4", epochs=1, lr=1e-3, batch_norm="train"),)


def main(data: str, out: str, special: str = "") -> None:
    torch.set_num_threads(1)
    resolve_device("auto")
    if special == "wrapped once":
        wrap_once()
    if special == "one dies" and os.environ["RANK"] == "1":
        die_at(4)
    if special == "several":
        train_several(data, Path(out))
        return
    if special == "objects":
        train_objects(data, Path(out))
        return
    if special == "short last batch":
        train_with_short_last_batch(data, Path(out))
        return
    manifest = ft.Manifest.from_folder(data)
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32, dropout=0.0)
    ft.fit(
        model,
        manifest,
        {"statistics": LEARNING_STATISTICS, "started": STARTED}.get(special, PHASES),
        clip=ft.Clip(num_frames=2),
        train=ft.Train(
            batch_size=6 // process_count(),
            precision="fp32",
            # After a probe, gradients are so small that Adam makes steps of their rounding.
            head_start="probe" if special == "started" else "random",
            optimizer="sgd" if special == "started" else "adamw",
            save_every_minutes=1e-9,
            cache="boundary" if special == "kept" else "auto",
            cache_dir=f"{out}-kept",
        ),
        out=Path(out),
        quiet=True,
    )


def train_several(data: str, out: Path) -> Path:
    """Of several tasks, of which rows lack labels; by SGD, as Adam makes steps of the rounding of gradients of 0."""
    phases = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}, {"unfreeze": "layer3", "epochs": 1, "lr": 1e-3}]
    settings = {"multitask": {"weighting": "pcgrad", "normalize_losses": "running"}, "phases": phases}
    tasks = {name: TASKS[name] for name in ("way", "shade")} | {"box": TASKS["box"] | {"feature_stage": "layer3"}}
    recipe = recipe_of(data, tasks, train={"batch_size": 6 // process_count(), "optimizer": "sgd"}, **settings)
    return train_from_recipe(recipe, manifest_of(recipe), out=out)


def train_objects(data: str, out: Path) -> Path:
    """Of boxes, motion and pixels, with no task that reads the backbone's last features."""
    phases = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}, {"unfreeze": "layer3", "epochs": 1, "lr": 1e-2}]
    train = {"batch_size": 6 // process_count(), "optimizer": "sgd"}
    recipe = recipe_of_frames(data, ("tracks", "pixels"), train=train, phases=phases)
    return train_from_recipe(recipe, manifest_of_frames(recipe), out=out)


SHORT = {
    "one task": {},
    "accumulating": {"accumulate": 2},
    "kept": {"cache": "boundary"},
    "several tasks": {},
}


def train_with_short_last_batch(data: str, out: Path) -> None:
    """Of 17 rows in batches of 8, and of 16 where two are accumulated, the last holds one row: of two processes the
    second has none. Plain SGD, as its steps are no larger than the gradients' rounding.
    """
    for name, settings in SHORT.items():
        tasks = {each: TASKS[each] for each in ("way", "box", "shade")} if name == "several tasks" else {}
        phases = [{"unfreeze": "head", "epochs": 1, "lr": 1e-2}, {"unfreeze": "layer4", "epochs": 2, "lr": 1e-2}]
        train = {
            "batch_size": 8 // process_count(),
            "optimizer": "sgd",
            "head_start": "random",
            "cache_dir": f"{out}-cache",
        } | settings
        recipe = recipe_of(data if tasks else f"{data}.labelled.csv", tasks, train=train, phases=phases)
        train_from_recipe(recipe, manifest_of(recipe), out=out / name)


def wrap_once() -> None:
    """As most code does it: the network is wrapped before the first phase, and never again."""
    prepare, wrapped = Accelerator.prepare, []

    def prepare_once(self, model, *rest):
        if not isinstance(model, torch.nn.Module):
            return prepare(self, model, *rest)
        if not wrapped:
            wrapped.append(prepare(self, model))
        return wrapped[0], *(prepare(self, each) for each in rest)

    Accelerator.prepare = prepare_once
    Accelerator.free_memory = lambda self, *objects: None


def die_at(step: int) -> None:
    add, left = Tally.add, [step]

    def counted(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, *arguments)

    Tally.add = counted


if __name__ == "__main__":
    for first in range(1, len(sys.argv), 3):
        main(*sys.argv[first : first + 3])
