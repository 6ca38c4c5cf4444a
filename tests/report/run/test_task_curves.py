"""Curves of several tasks, and regression plots, drawn from values that the tests write."""

import math
import re
from xml.etree import ElementTree

import pytest
from report.run.test_learning_curves import epochs_of, texts

from finetune.report.run.regression_plots import iou_histogram, true_vs_predicted
from finetune.report.run.task_curves import MAX_PAIRS, task_learning_curves

TASKS = {"action": {"kind": "classify"}, "where": {"kind": "box"}, "speed": {"kind": "regress"}}


def epochs_with(number=4, **sections):
    """Epoch records whose `sections` are functions of the index of the epoch."""
    epochs = epochs_of(("head", number // 2), ("all", number - number // 2))
    return [epoch | {key: of(place) for key, of in sections.items()} for place, epoch in enumerate(epochs)]


def label_of(drawing):
    return ElementTree.fromstring(drawing).get("aria-label")


def test_epochs_without_task_values_give_no_figures():
    assert task_learning_curves(epochs_with(), TASKS) is None


def test_losses_and_metrics_have_their_range_in_the_accessible_name():
    values = lambda place: {"where": {"train_loss": 3 - place / 2, "val_loss": 4.0, "val_mean_iou": 0.2 + place / 10}}  # noqa: E731
    curves = task_learning_curves(epochs_with(tasks=values), TASKS)
    where = curves["tasks"][1]
    assert label_of(where["loss"]) == "Loss, epochs 1 to 4: training from 3.00 to 1.50; validation from 4.00 to 4.00."
    assert label_of(where["score"]).replace("\u00a0", " ") == (
        "mean IoU on validation clips, epochs 1 to 4: from 20.0 % to 50.0 %."
    )
    assert curves["tasks"][0]["loss"] is curves["tasks"][0]["score"] is curves["tasks"][0]["weight"] is None
    assert curves["cosines"] == []
    assert "1: head" in " ".join(texts(where["loss"]))


def test_weights_of_all_tasks_have_one_scale_which_is_logarithmic_for_a_wide_range():
    tasks = lambda place: {"action": {"train_loss": 1.0}}  # noqa: E731
    near = epochs_with(tasks=tasks, weights=lambda place: {"action": 1.0, "where": 2.0 + place})
    far = epochs_with(tasks=tasks, weights=lambda place: {"action": 0.01, "where": 2.0})
    ticks = lambda drawing: [text for text in texts(drawing) if re.fullmatch(r"[\d.]+", text)]  # noqa: E731
    for epochs, log_scale in ((near, False), (far, True)):
        curves = task_learning_curves(epochs, TASKS)
        first, second, none = (task["weight"] for task in curves["tasks"])
        assert curves["log_scale"] is log_scale
        assert ticks(first) == ticks(second)
        assert none is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "much"])
def test_a_missing_value_is_a_gap_in_the_line(value):
    values = lambda place: {"speed": {"train_loss": value if place == 1 else 1.0, "val_r2": value}}  # noqa: E731
    speed = task_learning_curves(epochs_with(tasks=values), TASKS)["tasks"][2]
    assert "nan" not in re.sub(r'href="[^"]*"', "", speed["loss"]).lower()
    assert speed["score"] is None


def test_an_r2_far_below_zero_is_clipped_but_named():
    values = lambda place: {"speed": {"val_r2": -40.0 + 10.2 * place}}  # noqa: E731
    speed = task_learning_curves(epochs_with(5, tasks=values), TASKS)["tasks"][2]
    assert label_of(speed["score"]).endswith("from −40.0 to 0.800.")
    assert "clip-path" in speed["score"]


def test_a_loss_below_zero_is_drawn_to_its_lowest():
    values = lambda place: {"speed": {"train_loss": -1.0 - place}}  # noqa: E731
    speed = task_learning_curves(epochs_with(tasks=values), TASKS)["tasks"][2]
    assert {"−3.0", "0.0"} <= set(texts(speed["loss"]))
    assert "training from −1.00 to −4.00" in label_of(speed["loss"])


def test_pairs_are_counted_and_only_those_with_the_most_conflict_are_drawn():
    names = [f"t{number}" for number in range(7)]
    pairs = [f"{first} | {second}" for place, first in enumerate(names) for second in names[place + 1 :]]
    cosines = lambda place: {pair: 0.05 * number - 0.3 + 0.1 * place for number, pair in enumerate(pairs)}  # noqa: E731
    epochs = epochs_with(tasks=lambda place: {"action": {"train_loss": 1.0}}, cosines=cosines)
    curves = task_learning_curves(epochs, TASKS)
    assert (len(curves["cosines"]), curves["num_pairs"]) == (MAX_PAIRS, 21)
    first = curves["cosines"][0]
    assert (first["names"], first["num_negative"], first["num_epochs"], first["text"]) == (("t0", "t1"), 3, 4, "−0.15")
    assert label_of(first["figure"]) == (
        "Cosine between the gradients of t0 and t1, epochs 1 to 4: from −0.30 to 0.00."
    )


@pytest.mark.parametrize("number", [1, 300])
def test_one_epoch_and_many_are_drawn_small(number):
    values = lambda place: {name: {"train_loss": 1.0, "val_loss": 1.0} for name in TASKS}  # noqa: E731
    epochs = epochs_of(("all", number))
    epochs = [epoch | {"tasks": values(0), "weights": dict.fromkeys(TASKS, 1.0)} for epoch in epochs]
    for task in task_learning_curves(epochs, TASKS)["tasks"]:
        assert len(task["loss"]) + len(task["weight"]) < 60_000


def test_the_accessible_name_of_the_iou_histogram_lists_its_bins():
    histogram = {"edges": [0.0, 0.5, 1.0], "counts": [3, 7]}
    drawing = iou_histogram({"mean_iou": 0.6, "histogram": histogram}, name="h")
    assert label_of(drawing) == "Number of clips by IoU: 0% to 50%: 3; 50% to 100%: 7."
    assert "baseline" not in texts(drawing)


@pytest.mark.parametrize("points", [[], [[math.nan, 1.0]], [[1.0, math.inf]]])
def test_without_finite_points_nothing_is_drawn(points):
    assert true_vs_predicted(points, output="dx", unit="", name="p") is None


def test_the_accessible_name_of_a_scatter_plot_has_the_range_of_values():
    drawing = true_vs_predicted([[1.0, 1.5], [1.0, 2.5]], output='<b>"$x$', unit="", name="p")
    assert label_of(drawing) == (
        'Predicted vs. true values of “\u2068<b>"$x$\u2069”, 2 clips: true 1 to 1, predicted 1.5 to 2.5.'
    )
