import json

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from finetune.metrics.segmentation import frame_counts, mean_iou, score_segmentation


def scored(masks, *, groups=None, recordings=None, classes="abc"):
    recordings = np.arange(len(masks)) if recordings is None else np.array(recordings)
    counts = frame_counts(iter(masks), len(classes), recordings=recordings)
    task = score_segmentation(counts, classes=classes, groups=groups)
    assert json.loads(json.dumps(task, allow_nan=False)) == task
    assert mean_iou(counts) == task["miou"]
    return task


def mask(*rows):
    return np.array(rows, dtype=np.uint8)


def drawn(number=30, side=12, seed=0):
    rng, masks = np.random.default_rng(seed), []
    for _ in range(number):
        true = rng.integers(0, 3, (side, side)).astype(np.uint8)
        predicted = np.where(rng.random(true.shape) < 0.7, true, rng.integers(0, 3, true.shape)).astype(np.uint8)
        masks.append((np.where(rng.random(true.shape) < 0.1, 255, true).astype(np.uint8), predicted))
    return masks


def test_figures_worked_by_hand():
    task = scored([(mask([0, 0, 1], [1, 255, 255]), mask([0, 1, 1], [1, 0, 2])), (mask([1, 1]), mask([2, 1]))])
    assert task["confusion"] == [[1, 1, 0], [0, 3, 1], [0, 0, 0]]
    assert (task["num_pixels"], task["pixel_accuracy"]) == (6, 4 / 6)
    assert task["miou"] == pytest.approx((1 / 2 + 3 / 5) / 2)
    assert [row["iou"] for row in task["per_class"]] == [1 / 2, 3 / 5, None]
    assert task["per_class"][1] == {"class": "b", "iou": 3 / 5, "precision": 3 / 4, "recall": 3 / 4, "support": 4}
    assert (task["steadiness"], task["num_neighbours"]) == (None, 0)


def test_iou_is_that_of_all_pixels_together():
    masks = drawn()
    task = scored(masks, groups=np.arange(30) // 5)
    true, predicted = (np.concatenate([pair[place].ravel() for pair in masks]) for place in (0, 1))
    known = true != 255
    wanted = jaccard_score(true[known], predicted[known], average=None)
    assert [row["iou"] for row in task["per_class"]] == pytest.approx(wanted)
    assert task["miou"] == pytest.approx(wanted.mean())
    for name in ("miou", "pixel_accuracy"):
        assert task[f"{name}_ci"][0] < task[name] < task[f"{name}_ci"][1]


def test_steadiness_is_the_share_of_unchanged_pixels_whose_prediction_is_unchanged():
    still, moved = mask([0, 1, 1, 255]), mask([0, 0, 1, 1])
    frames = [(still, mask([0, 1, 2, 0])), (still, mask([0, 2, 2, 1])), (moved, mask([1, 0, 2, 0]))]
    task = scored(frames, recordings=["x", "x", "x"])
    assert (task["steadiness"], task["num_neighbours"]) == ((2 + 1) / (3 + 2), 2)
    assert scored(frames, recordings=["x", "x", "y"])["steadiness"] == 2 / 3


def test_frames_without_a_labelled_pixel_give_none():
    nothing = (np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    task = scored([nothing, nothing], recordings=["x", "x"])
    assert [task[name] for name in ("miou", "miou_ci", "pixel_accuracy", "steadiness")] == [None] * 4
    one = (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    task = scored([nothing, one])
    assert (task["miou"], task["pixel_accuracy"]) == (1, 1)
    assert task["miou_ci"] is None or task["miou_ci"][1] == 1
