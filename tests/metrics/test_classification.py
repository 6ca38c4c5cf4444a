import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, top_k_accuracy_score

from finetune.metrics.classification import score_multiclass


def drawn(num_rows=120, num_classes=8, skill=0.6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_rows)
    probs = rng.random((num_rows, num_classes))
    probs[np.arange(num_rows), labels] += skill
    return labels, probs / probs.sum(1, keepdims=True)


def test_figures_are_those_of_scikit_learn():
    labels, probs = drawn()
    found = score_multiclass(labels, probs, classes=[str(n) for n in range(8)])
    predicted = probs.argmax(1)
    assert found["top1"] == pytest.approx((predicted == labels).mean())
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, probs, k=5))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["macro_precision"] == pytest.approx(precision_score(labels, predicted, average="macro"))
    assert found["macro_recall"] == pytest.approx(recall_score(labels, predicted, average="macro"))
    assert np.array(found["confusion"]).sum() == 120
    assert [row["support"] for row in found["per_class"]] == np.bincount(labels).tolist()
    assert found["majority"]["top1"] == np.bincount(labels).max() / 120


def test_a_case_worked_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    probs = np.eye(3)[[0, 0, 1, 1, 0, 2]]
    found = score_multiclass(labels, probs, classes=["a", "b", "c"])
    assert found["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert found["top1"] == pytest.approx(4 / 6)
    assert found["per_class"][0]["precision"] == pytest.approx(2 / 3)
    assert found["per_class"][1]["recall"] == pytest.approx(1 / 2)
    assert found["majority"] == {"class": "a", "top1": 0.5}


def test_intervals_hold_their_figure_and_widen_with_grouping():
    labels, probs = drawn()
    groups = np.arange(120) // 20
    # Whole groups are right or wrong together, as clips of one person tend to be.
    probs[groups < 3] = np.eye(8)[labels[groups < 3]]
    alone = score_multiclass(labels, probs, classes=[str(n) for n in range(8)])
    grouped = score_multiclass(labels, probs, classes=[str(n) for n in range(8)], groups=groups)
    for found in (alone, grouped):
        for name in ("top1", "top5", "macro_f1", "macro_precision", "macro_recall"):
            low, high = found[f"{name}_ci"]
            assert 0 <= low <= found[name] <= high <= 1, name
    width = [np.diff(found["top1_ci"])[0] for found in (alone, grouped)]
    assert width[1] > width[0]


def test_all_right_is_no_certainty():
    labels = np.arange(10) % 2
    found = score_multiclass(labels, np.eye(2)[labels], classes=["a", "b"], groups=np.arange(10) // 2)
    assert found["top1"] == 1.0
    assert 0.4 < found["top1_ci"][0] < 0.7  # Wilson for 5 of 5
    assert found["top1_ci"][1] == 1.0


def test_a_class_without_rows_is_left_out_of_the_averages():
    labels = np.array([0, 0, 1, 1])
    found = score_multiclass(labels, np.eye(3)[[0, 0, 1, 0]], classes=["a", "b", "never"])
    assert found["macro_recall"] == pytest.approx(0.75)
    assert found["per_class"][2] == {
        "class": "never",
        "precision": 0.0,
        "recall": 0.0,
        "recall_ci": None,
        "f1": 0.0,
        "support": 0,
    }
