from pathlib import Path

import numpy as np
import pytest

from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.inference.predict_split import Predictions
from finetune.metrics.headline import epoch_sort_key
from finetune.train.validation import multitask_val_metrics

BOX = (10.0, 10.0, 20.0, 20.0)


def manifest_of(**labels):
    rows = np.arange(len(next(iter(labels.values())).known))
    paths = np.array([f"{row}.mp4".encode() for row in rows])
    return Manifest(Path("here.csv"), (), paths, rows * 0, np.full(len(rows), "val"), None, tasks=labels)


def objects(codes):
    """One object of each class code at BOX, in a frame of its own; none for -1."""
    values = np.full((len(codes), 1, 9), np.nan)
    values[:, 0, 0], values[:, 0, 1:5], values[:, 0, 7:] = codes, BOX, (-1, 0)
    return Labels("detect", ("a", "b"), values, np.ones(len(codes), dtype=bool))


def detections(*scores):
    values = np.zeros((len(scores), 2, 8))
    values[:, 0, :4], values[:, 0, 4] = BOX, scores
    return values


def test_an_epoch_has_average_precision_and_the_best_score_threshold():
    labels, found = objects([0, 0, -1, 1]), detections(0.9, 0.8, 0.3, 0)
    metrics = multitask_val_metrics(manifest_of(things=labels), Predictions(np.arange(4), {"things": found}, {}))
    task = metrics["tasks"]["things"]
    assert task == {
        "val_ap": pytest.approx(0.5),
        "val_loss": pytest.approx(0.5),
        "score_threshold": pytest.approx(0.55),
    }
    assert (metrics["val_score"], metrics["val_loss"]) == (task["val_ap"], task["val_loss"])


def test_a_task_without_anything_to_find_is_left_out_of_the_mean():
    counts = np.array([[6, 2, 0, 2, 0, 0]] * 2)  # of two classes: IoU 6 / 8 and 2 / 4
    masks = Labels("segment", ("a", "b"), np.array([b"x.png"] * 2), np.ones(2, dtype=bool))
    manifest = manifest_of(things=objects([-1, -1]), pixels=masks)
    metrics = multitask_val_metrics(
        manifest, Predictions(np.arange(2), {"things": detections(0.5, 0), "pixels": counts}, {})
    )
    assert metrics["tasks"]["things"] == {"val_ap": None, "val_loss": None, "score_threshold": None}
    assert metrics["val_score"] == metrics["tasks"]["pixels"]["val_miou"] == pytest.approx(5 / 8)
    assert metrics["val_loss"] == pytest.approx(3 / 8)
    alone = multitask_val_metrics(
        manifest_of(things=objects([-1, -1])), Predictions(np.arange(2), {"things": detections(0.5, 0)}, {})
    )
    assert alone["val_loss"] is None
    assert epoch_sort_key(alone) == (0, 0)
