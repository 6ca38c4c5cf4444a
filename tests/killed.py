"""A run in a process of its own, killed at its n-th event: a step, a flush, a rename, an epoch's or phase's end."""

import multiprocessing
import os
import signal
from pathlib import Path

import torch
from grey import TINY

import finetune as ft
import finetune.train.loop
from finetune.errors import RunError
from finetune.train.position import LoopPosition, Tally

# The heavy imports once, in a process without threads; each run is forked from it.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["killed", "finetune.train.loop", "finetune.train.resume", "peft"])

KINDS = {
    "averaged": {
        "temporal": "gru",
        "phases": (
            ft.Phase(unfreeze="head", epochs=2, lr=1e-2),
            ft.Phase(unfreeze="layer4", epochs=1, lr=1e-3, batch_norm="train"),
            ft.Phase(unfreeze="all", epochs=1, lr=1e-3, batch_norm="partial", keep_optimizer_state=False),
        ),
        "train": ft.Train(batch_size=3, ema=0.9, precision="fp32", precise_bn=True, clip_grad=1.0),
        "augment": ft.Augment(mixup=0.3),
    },
    "adapted": {
        "temporal": "mean",
        "phases": (
            ft.Phase(unfreeze="layer4", steps=4, lr=1e-3, l2_sp=0.1),
            ft.Phase(unfreeze="lora(r=2)", epochs=2, lr=1e-3),
            ft.Phase(unfreeze=("layer3", "head"), epochs=1, lr=1e-3, l2_sp=0.1),
        ),
        "train": ft.Train(batch_size=3, optimizer="sgd", precision="fp32", schedule_over="run", cache="boundary"),
        "augment": ft.Augment(preset="strong"),
    },
}


def run_to_the_end(kind: str, data: Path, folder: Path, *, kill_at: int | None = None) -> bool:
    """Begin a run, or go on with it; whether it came to its end."""
    process = CONTEXT.Process(target=_run, args=(kind, data, folder, kill_at))
    process.start()
    process.join(300)
    assert process.exitcode in {0, -signal.SIGKILL}, process.exitcode
    return process.exitcode == 0


def _run(kind: str, data: Path, folder: Path, kill_at: int | None) -> None:
    torch.set_num_threads(1)
    if kind == "averaged":
        finetune.train.loop.MINUTES_BETWEEN_SAVES = 0.0  # each epoch is saved, however short
    if kill_at is not None:
        _kill_at(kill_at)
    try:
        if folder.exists():
            ft.resume(folder, quiet=True)
            return
    except RunError as error:
        assert "cannot be resumed without" in str(error) or "is not a run folder" in str(
            error
        )  # no checkpoint: begun anew
    settings = KINDS[kind]
    manifest = ft.Manifest.from_folder(data) if data.is_dir() else ft.Manifest.from_csv(data)
    torch.manual_seed(0)
    model = ft.build_model(
        TINY, manifest.classes, weights="none", temporal=settings["temporal"], num_frames=2, size=32, dropout=0.5
    )
    ft.fit(
        model,
        manifest,
        settings["phases"],
        clip=ft.Clip(num_frames=2),
        augment=settings["augment"],
        train=settings["train"].model_copy(update={"cache_dir": folder.with_name(f"{folder.name}-kept")}),
        out=folder,
        quiet=True,
    )


def _kill_at(number: int) -> None:
    left = [number]

    def counted(call):
        def replacement(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return replacement

    for owner, name in [
        *((Tally, "add"), (LoopPosition, "after_epoch"), (LoopPosition, "after_phase"), (torch, "save")),
        *((os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink")),
    ]:
        setattr(owner, name, counted(getattr(owner, name)))
