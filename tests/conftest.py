"""Clips made by the tests, so that a test knows which frame it got: frame n is grey of level 16 + 7 n."""

import os
from pathlib import Path

import numpy as np
import pytest

from finetune.video.encode import write_video

TINY = "test_resnet"  # timm's own architecture for tests: stem, layer1 … layer4 in 0.5 million parameters


def grey_frames(count, *, size=32, start=16, step=7):
    """uint8 (T, size, size, 3); frame n has level start + step n."""
    levels = (start + step * np.arange(count)) % 256
    return np.broadcast_to(levels[:, None, None, None], (count, size, size, 3)).astype(np.uint8)


def level_of(frames):
    """The frame numbers that grey frames (T, H, W, 3) were made from."""
    return np.rint((frames.reshape(len(frames), -1).mean(1) - 16) / 7).astype(int).tolist()


def make_clip(path, count=8, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, grey_frames(count, **kwargs), fps=25)
    return path


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """`<split>/<class>/*.mp4`: dark clips and bright clips, 4 train, 2 val and 2 test of each class."""
    root = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            make_clip(root / split / "dark ones" / f"{number}.mp4", 6 + number, start=16 + number, step=2)
            make_clip(root / split / "it's bright" / f"{number}.mp4", 6 + number, start=200 + number, step=2)
    return root


@pytest.fixture(scope="session")
def trained_run(clip_folder, tmp_path_factory):
    """A finished run of three short phases on the clip folder; do not write into it."""
    import torch

    import finetune as ft

    out = tmp_path_factory.mktemp("runs") / "run"
    manifest = ft.Manifest.from_folder(clip_folder)
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", temporal="concat", num_frames=4, size=32)
    phases = [
        ft.Phase(train="head", epochs=2, lr=1e-2),
        ft.Phase(train="layer4", epochs=1, lr=1e-3, batch_norm="partial"),
        ft.Phase(train="all", epochs=1, lr=1e-3, layer_decay=0.5, batch_norm="train"),
    ]
    return ft.fit(
        model, manifest, phases, clip=ft.Clip(num_frames=4), train=ft.Train(batch_size=4), out=out, quiet=True
    )


@pytest.fixture(scope="session")
def real():
    """The folder with real clips (`data/`) and weights (`weights/`) that FINETUNE_REAL names."""
    folder = os.environ.get("FINETUNE_REAL")
    if not folder:
        pytest.skip("FINETUNE_REAL names no folder of real clips and weights")
    return Path(folder)
