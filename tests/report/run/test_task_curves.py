"""Figures of tasks beside each other, drawn from epochs that the tests write."""

import math
import re
from xml.etree import ElementTree

import pytest
from report.run.test_learning_curves import epochs_of, texts

from finetune.report.run.regression_plots import iou_histogram, true_vs_predicted
from finetune.report.run.task_curves import MAX_PAIRS, task_learning_curves

TASKS = {"action": {"kind": "classify"}, "where": {"kind": "box"}, "speed": {"kind": "regress"}}


def epochs_with(number=4, **sections):
    """Epochs in which `sections` are what a function of the epoch's place gives."""
    epochs = epochs_of(("head", number // 2), ("all", number - number // 2))
    return [epoch | {key: of(place) for key, of in sections.items()} for place, epoch in enumerate(epochs)]


def label_of(drawing):
    return ElementTree.fromstring(drawing).get("aria-label")


def test_epochs_that_say_nothing_of_tasks_give_no_figures():
    assert task_learning_curves(epochs_with(), TASKS) is None


def test_losses_and_figures_are_told_to_screen_readers_as_they_went():
    told = lambda place: {"where": {"train_loss": 3 - place / 2, "val_loss": 4.0, "val_mean_iou": 0.2 + place / 10}}  # noqa: E731
    together = task_learning_curves(epochs_with(tasks=told), TASKS)
    where = together["tasks"][1]
    assert label_of(where["loss"]) == "Loss, epochs 1 to 4: training from 3.00 to 1.50; validation from 4.00 to 4.00."
    assert label_of(where["score"]).replace("\u00a0", " ") == (
        "mean IoU on validation clips, epochs 1 to 4: from 20.0 % to 50.0 %."
    )
    assert together["tasks"][0]["loss"] is together["tasks"][0]["score"] is together["tasks"][0]["weight"] is None
    assert together["cosines"] == []
    assert "1: head" in " ".join(texts(where["loss"]))


def test_weights_of_all_tasks_are_on_one_scale_and_far_apart_on_one_of_powers():
    tasks = lambda place: {"action": {"train_loss": 1.0}}  # noqa: E731
    near = epochs_with(tasks=tasks, weights=lambda place: {"action": 1.0, "where": 2.0 + place})
    far = epochs_with(tasks=tasks, weights=lambda place: {"action": 0.01, "where": 2.0})
    ticks = lambda drawing: [text for text in texts(drawing) if re.fullmatch(r"[\d.]+", text)]  # noqa: E731
    for epochs, powers in ((near, False), (far, True)):
        together = task_learning_curves(epochs, TASKS)
        first, second, none = (each["weight"] for each in together["tasks"])
        assert together["powers"] is powers
        assert ticks(first) == ticks(second)
        assert none is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "much"])
def test_what_is_no_number_is_a_gap_in_a_line(value):
    told = lambda place: {"speed": {"train_loss": value if place == 1 else 1.0, "val_r2": value}}  # noqa: E731
    speed = task_learning_curves(epochs_with(tasks=told), TASKS)["tasks"][2]
    assert "nan" not in re.sub(r'href="[^"]*"', "", speed["loss"]).lower()
    assert speed["score"] is None


def test_an_r2_far_below_zero_is_cut_off_and_said():
    told = lambda place: {"speed": {"val_r2": -40.0 + 10.2 * place}}  # noqa: E731
    speed = task_learning_curves(epochs_with(5, tasks=told), TASKS)["tasks"][2]
    assert label_of(speed["score"]).endswith("from −40.0 to 0.800.")
    assert "clip-path" in speed["score"]


def test_a_loss_below_zero_is_drawn_to_its_lowest():
    told = lambda place: {"speed": {"train_loss": -1.0 - place}}  # noqa: E731
    speed = task_learning_curves(epochs_with(tasks=told), TASKS)["tasks"][2]
    assert {"−3.0", "0.0"} <= set(texts(speed["loss"]))
    assert "training from −1.00 to −4.00" in label_of(speed["loss"])


def test_pairs_are_counted_and_only_those_that_pull_apart_most_are_drawn():
    names = [f"t{number}" for number in range(7)]
    pairs = [f"{first} | {second}" for place, first in enumerate(names) for second in names[place + 1 :]]
    cosines = lambda place: {pair: 0.05 * number - 0.3 + 0.1 * place for number, pair in enumerate(pairs)}  # noqa: E731
    epochs = epochs_with(tasks=lambda place: {"action": {"train_loss": 1.0}}, cosines=cosines)
    together = task_learning_curves(epochs, TASKS)
    assert (len(together["cosines"]), together["pairs"]) == (MAX_PAIRS, 21)
    first = together["cosines"][0]
    assert (first["names"], first["below"], first["of"], first["text"]) == (("t0", "t1"), 3, 4, "−0.15")
    assert label_of(first["figure"]) == "Cosine of the gradients of t0 and t1, epochs 1 to 4: from −0.30 to 0.00."


@pytest.mark.parametrize("number", [1, 300])
def test_one_epoch_and_many_are_drawn_small(number):
    told = lambda place: {name: {"train_loss": 1.0, "val_loss": 1.0} for name in TASKS}  # noqa: E731
    epochs = epochs_of(("all", number))
    epochs = [epoch | {"tasks": told(0), "weights": dict.fromkeys(TASKS, 1.0)} for epoch in epochs]
    for each in task_learning_curves(epochs, TASKS)["tasks"]:
        assert len(each["loss"]) + len(each["weight"]) < 60_000


def test_overlaps_are_told_bin_by_bin():
    histogram = {"edges": [0.0, 0.5, 1.0], "counts": [3, 7]}
    drawing = iou_histogram({"mean_iou": 0.6, "histogram": histogram}, name="h")
    assert label_of(drawing) == ("Clips by the overlap of their box with the true one: 0% to 50%: 3; 50% to 100%: 7.")
    assert "mean box" not in texts(drawing)


@pytest.mark.parametrize("points", [[], [[math.nan, 1.0]], [[1.0, math.inf]]])
def test_without_a_point_nothing_is_drawn(points):
    assert true_vs_predicted(points, called="dx", unit="", name="p") is None


def test_points_are_told_from_to_whatever_a_column_is_called():
    drawing = true_vs_predicted([[1.0, 1.5], [1.0, 2.5]], called='<b>"$x$', unit="", name="p")
    assert label_of(drawing) == (
        'True and said values of “\u2068<b>"$x$\u2069”, 2 clips: true ones from 1 to 1, said ones from 1.5 to 2.5.'
    )
