"""Every kind of task through the same two functions, and what models are compared by."""

import json

import numpy as np
import pytest

from finetune.metrics.headline import epoch_sort_key, format_headline, headline_metric
from finetune.metrics.headline_keys import HEADLINE_METRICS, metric_range
from finetune.metrics.tasks import score_task, validation_headline

NAMES = {"box": "xywh", "motion": ("dx", "dy")}


def drawn(kind, num_rows, seed=0):
    """What is true, what is said, and the names of outputs or classes."""
    rng, names = np.random.default_rng(seed), list(NAMES.get(kind, "abc"))
    if kind in ("box", "motion", "regress"):
        truth = rng.uniform(20, 60, (num_rows, len(names)))
        return truth, truth + rng.normal(0, 3, truth.shape), names
    if kind == "segment":
        return np.zeros(num_rows), rng.integers(1, 30, (num_rows, 11)), names
    if kind in ("detect", "track"):
        truth, said = np.full((num_rows, 3, 9), np.nan), np.full((num_rows, 5, 8), np.nan)
        truth[..., 0], truth[..., 1:5], truth[..., 5:7] = rng.integers(3, size=(num_rows, 3)), (9, 9, 30, 20), 1
        truth[..., 1] += 40 * np.arange(3)
        truth[..., 8] = 0
        said[..., 4], said[..., 5] = rng.random((num_rows, 5)), rng.integers(3, size=(num_rows, 5))
        said[..., :4], said[..., 6:] = (9, 9, 30, 20), 1
        said[:, :3, :4], said[:, :3, 5] = truth[..., 1:5] + rng.normal(0, 2, (num_rows, 3, 4)), truth[..., 0]
        return truth, said, names
    shown = rng.random((num_rows, 3)) < 0.4
    truth = shown if kind == "multilabel" else rng.integers(3, size=num_rows)
    sure = shown if kind == "multilabel" else np.eye(3)[truth]
    probs = rng.random((num_rows, 3)) * 0.6 + 0.4 * sure
    return truth, probs if kind == "multilabel" else probs / probs.sum(1, keepdims=True), names


@pytest.mark.parametrize("kind", HEADLINE_METRICS)
@pytest.mark.parametrize("num_rows", [1, 2, 7, 60])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_kind_is_scored_from_one_row_on(kind, num_rows, grouped):
    truth, said, names = drawn(kind, num_rows)
    groups = np.arange(num_rows) // 3 if grouped else None
    fitted = truth.mean(0).tolist() if kind in ("box", "motion", "regress") else None
    task = score_task(kind, truth, said, names=names, groups=groups, fitted=fitted)
    assert task["kind"] == kind
    assert json.loads(json.dumps(task, allow_nan=False)) == task
    key, name = HEADLINE_METRICS[kind]
    assert validation_headline(kind, truth, said) == {key: pytest.approx(task[key])}
    said_name, value, (low, high) = headline_metric(task)
    assert (said_name, value) == (name, task[key])
    assert metric_range(kind)[0] <= low <= value <= high <= metric_range(kind)[1]
    assert format_headline(task).startswith(f"{name} {value:.3f} (95 % interval ")
    if fitted is not None:
        assert np.isfinite(list(task["baseline"].values())).all()


@pytest.mark.parametrize("kind", HEADLINE_METRICS)
def test_an_epoch_without_a_labelled_row_has_no_figure(kind):
    truth, said, _ = drawn(kind, 4)
    assert validation_headline(kind, truth[:0], said[:0]) == {}


def test_thresholds_of_classes_that_go_together_are_used():
    truth, probs, names = drawn("multilabel", 40)
    given, half, none = (
        score_task("multilabel", truth, probs, names=names, groups=None, fitted=fitted)
        for fitted in ([0.7, 0.7, 0.7], [0.5, 0.5, 0.5], None)
    )
    assert [row["threshold"] for row in given["per_class"]] == [0.7] * 3
    assert given["exact"] != half["exact"] == none["exact"]


def test_a_figure_below_0_and_one_without_an_interval_are_said():
    truth, said, names = drawn("regress", 30)
    wrong = score_task("regress", truth, -said, names=names, groups=None, fitted=None)
    name, value, (low, high) = headline_metric(wrong)
    assert (name, value) == ("R²", wrong["r2"])
    assert low < value < high < 0
    assert format_headline(wrong).startswith("R² -")
    of_one_group = wrong | {"r2_ci": None}
    assert headline_metric(of_one_group)[2] == (-np.inf, 1)
    assert headline_metric({"kind": "motion", "correlation": -0.2, "correlation_ci": None})[2] == (-1, 1)
    assert headline_metric({"kind": "box", "mean_iou": 0.2, "mean_iou_ci": None})[2] == (0, 1)
    nothing = {"kind": "detect", "ap": None, "ap_ci": None}
    assert (headline_metric(nothing), format_headline(nothing)) == (
        ("AP", None, (0, 1)),
        "AP unknown (nothing to find)",
    )


def test_epochs_of_several_tasks_are_ranked_by_the_mean_of_their_figures():
    one = {"val_score": 0.6, "val_top1": 0.5, "val_map": 0.1, "val_loss": 3.0}
    other = {"val_score": -0.5, "val_top1": 0.9, "val_map": 0.8, "val_loss": 1.0}
    assert epoch_sort_key(one) > epoch_sort_key(other)
    assert epoch_sort_key({"val_score": 0.6, "val_loss": 2.0}) > epoch_sort_key(one)
    assert epoch_sort_key({"val_top1": None, "val_loss": None}) == (0, 0)
