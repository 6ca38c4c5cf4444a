"""What TensorBoard and trackers get, and the weights of the last epochs."""

import json

import accelerate.accelerator
import accelerate.tracking
import numpy as np
import pytest
import torch
from grey import TINY
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import finetune as ft
from finetune.errors import RecipeError
from finetune.train.log import trackers
from finetune.train.log.tensorboard import TensorBoardWriter

PHASES = (ft.Phase(unfreeze="head", epochs=2, lr=1e-2), ft.Phase(unfreeze="layer4", epochs=1, lr=1e-3))


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return ft.Manifest.from_folder(clip_folder)


def fit(manifest, out, **train):
    torch.manual_seed(0)
    model = ft.build_model(TINY, manifest.classes, weights="none", num_frames=2, size=32)
    settings = ft.Train(**{"batch_size": 4, **train})
    return ft.fit(model, manifest, PHASES, clip=ft.Clip(num_frames=2), train=settings, out=out, quiet=True)


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    return fit(manifest, tmp_path_factory.mktemp("runs") / "run", log_gradients=True, keep_checkpoints=2)


@pytest.fixture(scope="module")
def events(run):
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "histograms": 0})
    found.Reload()
    return found


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_curves_are_those_of_metrics_of_the_run_and_of_each_phase(run, events):
    for name in ("train_loss", "val_loss", "val_top1"):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx({record["epoch"]: record[name] for record in records(run)})
        assert [event.step for event in events.Scalars(f"phase 2/{name}")] == [3]
    assert [event.step for event in events.Scalars("lr/layer4")] == [1, 2, 3]


def test_clips_of_each_phase_and_the_confusion_of_each_epoch_are_pictures(events):
    assert [event.step for event in events.Images("clips/phase 1")] == [1]
    assert [event.step for event in events.Images("clips/phase 2")] == [3]
    picture = events.Images("clips/phase 1")[0]
    assert (picture.width, picture.height) == (2 * 113 + 1, 4 * 113 + 1)  # 4 clips of 2 frames, with lines between
    assert [event.step for event in events.Images("confusion on val")] == [1, 2, 3]


def test_gradients_are_of_the_stages_that_learn_once_an_epoch(events):
    assert set(events.Tags()["histograms"]) == {"gradients/head", "gradients/layer4"}
    assert len(events.Histograms("gradients/head")) == 3
    assert len(events.Histograms("gradients/layer4")) == 1


def test_the_last_epochs_are_kept_and_older_ones_are_not(run):
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"start", "best", "last", "epoch-2", "epoch-3"}
    kept, last = (load_file(run / f"checkpoints/{name}/model.safetensors") for name in ("epoch-3", "last"))
    assert all(torch.equal(kept[name], last[name]) for name in last)
    assert ft.load(run, checkpoint="epoch-2").classes == ft.load(run).classes


class Book(accelerate.tracking.GeneralTracker):
    """A tracker that keeps what it gets."""

    name, requires_logging_directory, main_process_only, books = "wandb", False, True, []

    def __init__(self, project, **settings):
        super().__init__()
        self.project, self.settings, self.lines, self.config, self.closed = project, settings, [], None, False
        Book.books.append(self)

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None):
        self.lines.append((step, values))

    def finish(self):
        self.closed = True


@pytest.mark.slow
def test_a_tracker_gets_the_recipe_and_each_epoch_and_is_closed(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    monkeypatch.setattr(accelerate.accelerator, "filter_trackers", lambda names, folder: list(names or []))
    monkeypatch.setitem(accelerate.accelerator.LOGGER_TYPE_TO_CLASS, "wandb", Book)
    run = fit(manifest, tmp_path / "run", trackers=("wandb",))
    (book,) = Book.books
    assert (book.project, book.settings["name"], book.closed) == ("finetune", "run", True)
    assert "batch_size: 4" in book.config["train"]
    assert [step for step, _ in book.lines] == [1, 2, 3]
    for (_, values), record in zip(book.lines, records(run), strict=True):
        assert values["val_loss"] == record["val_loss"]
        assert values["lr/head"] == record["lr"]["head"]


def test_a_tracker_that_is_not_installed_is_said_before_anything_trains(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="train.trackers: the package mlflow is not installed: pip install mlflow"):
        fit(manifest, tmp_path / "run", trackers=("mlflow",))
    assert not (tmp_path / "run").exists()


def test_names_that_the_font_has_not_are_drawn_without_a_word(tmp_path, recwarn):
    board = TensorBoardWriter(tmp_path, epochs=0)
    board.confusion(("走る", "يركض"), np.array([0, 1]), np.array([0, 1]), epoch=1)
    board.close()
    assert not [each for each in recwarn if "glyph" in str(each.message).lower()]
