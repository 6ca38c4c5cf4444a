"""What several tests share: a folder of clips, a finished run, commands, signals, and the folder of real clips."""

import os
import signal
import sys
from pathlib import Path

import pytest
from grey import TINY, make_clip

# A process started in the background may ignore Ctrl-C, nohup ignores hang-ups; tests send both.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--write", action="store_true", help="write what the docs generate from the code")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is kept in the user's cache, or taken from there; commands that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Files are not flushed to the disk: no test pulls the plug, and each flush takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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
        ft.Phase(unfreeze="head", epochs=2, lr=1e-2),
        ft.Phase(unfreeze="layer4", epochs=1, lr=1e-3, batch_norm="partial"),
        ft.Phase(unfreeze="all", epochs=1, lr=1e-3, layer_decay=0.5, batch_norm="train"),
    ]
    train = ft.Train(batch_size=4, head_start="random")  # a probe tells these classes apart with a probability of 1
    return ft.fit(model, manifest, phases, clip=ft.Clip(num_frames=4), train=train, out=out, quiet=True)


@pytest.fixture
def finetune(monkeypatch, capfd):
    """Run a command; (exit status, stdout, stderr)."""
    from finetune.cli.main import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return end.value.code, out, err

    return run


@pytest.fixture
def signal_at(monkeypatch):
    """Have a signal come in the n-th step from now."""
    from finetune.train.position import Tally

    def arrange(number, kind=signal.SIGINT):
        add, left = Tally.add, [number]

        def counted(self, *arguments):
            add(self, *arguments)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), kind)

        monkeypatch.setattr(Tally, "add", counted)

    return arrange


@pytest.fixture(scope="session")
def real():
    """The folder with real clips (`data/`) and weights (`weights/`) that FINETUNE_REAL names."""
    folder = os.environ.get("FINETUNE_REAL")
    if not folder:
        pytest.skip("FINETUNE_REAL names no folder of real clips and weights")
    return Path(folder)
