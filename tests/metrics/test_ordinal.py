import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from finetune.metrics.headline import score_classification
from finetune.metrics.ordinal import score_ordinal

LEVELS = ("none", "some", "much", "all")


def drawn(num_rows=160, seed=0):
    rng = np.random.default_rng(seed)
    levels = rng.integers(4, size=num_rows)
    logits = -np.abs(np.arange(4) - levels[:, None] - rng.normal(0, 0.7, (num_rows, 1)))
    return levels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_it_is_a_classification_with_distances():
    levels, probs = drawn()
    groups = np.arange(160) // 8
    task = score_ordinal(levels, probs, classes=LEVELS, groups=groups)
    added = {"kind", "num_rows", "mean_distance", "mean_distance_ci", "within_one", "within_one_ci", "kappa"}
    plain = score_classification(levels, probs, classes=LEVELS, groups=groups)
    assert {key: value for key, value in task.items() if key not in added} == {
        key: value for key, value in plain.items() if key != "kind"
    }
    said = probs.argmax(1)
    assert task["kind"] == "ordinal"
    assert task["mean_distance"] == np.abs(said - levels).mean()
    assert task["within_one"] == (np.abs(said - levels) <= 1).mean()
    assert task["kappa"] == pytest.approx(cohen_kappa_score(levels, said, weights="quadratic"))
    for name in ("mean_distance", "within_one"):
        assert task[f"{name}_ci"][0] < task[name] < task[f"{name}_ci"][1]
    assert json.dumps(task, allow_nan=False)


def test_levels_worked_by_hand():
    levels = np.array([0, 0, 3, 3])
    task = score_ordinal(levels, np.eye(4)[[0, 1, 3, 0]], classes=LEVELS, groups=None)
    assert (task["top1"], task["mean_distance"], task["within_one"]) == (0.5, 1, 0.75)
    # Squared distances 0, 1, 0, 9 against those of every level with every answer: 0, 1, 9, 0 and 9, 4, 0, 9.
    assert task["kappa"] == pytest.approx(1 - (10 / 4) / (32 / 8))


def test_a_level_without_rows_keeps_its_place():
    levels = np.array([0, 3, 3, 0])
    near, far = (
        score_ordinal(levels, np.eye(4)[said], classes=LEVELS, groups=None) for said in ([0, 3, 2, 0], [0, 3, 1, 0])
    )
    assert near["top1"] == far["top1"]
    assert near["kappa"] > far["kappa"]


def test_all_right_is_no_certainty_and_one_level_alone_no_agreement():
    levels, _ = drawn()
    right = score_ordinal(levels, np.eye(4)[levels], classes=LEVELS, groups=np.arange(160) // 8)
    assert (right["mean_distance"], right["kappa"]) == (0, 1)
    assert 0.1 < right["mean_distance_ci"][1] < 0.25  # three levels to go wrong by
    same = score_ordinal(np.ones(5, dtype=int), np.eye(4)[[1] * 5], classes=LEVELS, groups=None)
    assert (same["top1"], same["kappa"]) == (1, 0)


@pytest.mark.parametrize("classes", [("low", "high"), LEVELS])
def test_one_row_is_scored(classes):
    task = score_ordinal(np.array([0]), np.eye(len(classes))[[-1]], classes=classes, groups=np.array(["one"]))
    assert task["mean_distance"] == len(classes) - 1
    assert json.dumps(task, allow_nan=False)
