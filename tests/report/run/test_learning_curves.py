"""The figures, parsed as XML: their texts, colours and accessible names."""

import re
import warnings
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from finetune.report.run import learning_curves
from finetune.report.run.confusion_plot import confusion_figure, confusion_matrix

DRAWN = {
    "loss": lambda: learning_curves.loss_curve(epochs_of(("head", 2), ("all", 3))),
    "accuracy": lambda: learning_curves.accuracy_curve(epochs_of(("head", 2), ("all", 3))),
    "learning-rates": lambda: learning_curves.learning_rate_map(epochs_of(("head", 2), ("all", 3))),
    "confusion": lambda: confusion_matrix(["a", "b"], [[3, 1], [0, 4]], name="confusion"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_has_an_accessible_name_and_ids_of_its_own(name):
    root = ElementTree.fromstring(DRAWN[name]())
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 30
    assert ids
    assert all(identifier.startswith(f"{name}-") for identifier in ids)
    references = re.findall(r"(?:url\(|href=\")#([^)\"]+)", ElementTree.tostring(root, encoding="unicode"))
    assert set(references) <= set(ids)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_takes_font_and_colours_from_the_page(name):
    svg = DRAWN[name]()
    assert "var(--" in svg
    assert "font-family" not in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'href="[^"]*"', "", svg))
    assert "<style" not in svg


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_drawn_twice_is_the_same(name):
    assert DRAWN[name]() == DRAWN[name]()


def test_phases_are_numbered_from_one_and_named_above_the_curves():
    epochs = epochs_of(("head", 4), ("layer4", 5), ("all", 6))
    first, second, third = learning_curves.phases_from_epochs(epochs)
    assert (first.number, first.train, first.first, first.last) == (1, "head", 1, 4)
    assert (second.first, second.last, second.learning) == (5, 9, ("layer4", "head"))
    assert (third.number, third.last) == (3, 15)
    assert {"phase 1: head", "phase 2: layer4", "phase 3: all"} <= set(texts(learning_curves.loss_curve(epochs)))


def test_a_phase_too_short_for_its_name_keeps_its_number():
    svg = learning_curves.loss_curve(epochs_of(("head", 1), ("layer4", 40)))
    assert {"1", "2"} <= set(texts(svg))
    assert not [text for text in texts(svg) if "layer4" in text]


def test_a_run_without_validation_shows_only_training():
    epochs = [epoch | {"val_loss": None, "val_top1": None} for epoch in epochs_of(("all", 3))]
    for svg in (learning_curves.loss_curve(epochs), learning_curves.accuracy_curve(epochs)):
        assert "training" in texts(svg)
        assert "validation" not in texts(svg)


@pytest.mark.parametrize("number", [1, 300])
def test_one_epoch_and_many_are_drawn(number):
    epochs = epochs_of(("all", number))
    for draw in (learning_curves.loss_curve, learning_curves.accuracy_curve, learning_curves.learning_rate_map):
        assert len(draw(epochs)) < 100_000


def test_of_equally_accurate_epochs_the_one_with_the_lower_loss_is_best():
    epochs = epochs_of(("all", 3))
    epochs[1]["val_loss"] = 0.2
    assert learning_curves.best_epoch(epochs) is epochs[1]


def test_each_stage_shows_its_highest_learning_rate_or_that_it_is_frozen():
    words = texts(learning_curves.learning_rate_map(epochs_of(("head", 2), ("layer4", 3))))
    assert [word for word in words if word in ("stem", "layer4", "head")] == ["stem", "layer4", "head"]
    assert words.count("frozen") == 2  # of the stem, and in the legend
    assert {"5e-3", "1e-2"} <= set(words)


def test_a_learning_rate_of_zero_is_not_frozen():
    epochs = epochs_of(("all", 2))
    epochs[0]["lr"] = dict.fromkeys(epochs[0]["lr"], 0.0)
    svg = learning_curves.learning_rate_map(epochs)
    in_the_legend_only = 1
    assert svg.count("fill: url(#") == in_the_legend_only


@pytest.mark.parametrize("classes", [2, 30, 40])
def test_every_count_but_zero_is_written_into_its_cell(classes):
    counts = [[7 if i == j else 0 for j in range(classes)] for i in range(classes)]
    counts[0][1] = 12
    words = texts(confusion_matrix([f"c{i}" for i in range(classes)], counts, name="m"))
    assert words.count("7") == classes
    assert words.count("12") == 1
    assert "0" not in words


def test_above_40_classes_cells_hold_no_text_and_the_picture_stays_small():
    counts = [[i * j % 5 for j in range(400)] for i in range(400)]
    svg = confusion_matrix([f"c{i}" for i in range(400)], counts, name="m")
    assert not [text for text in texts(svg) if text.isdigit()]
    assert len(svg) < 300_000


def test_a_class_without_clips_is_an_empty_row():
    svg = confusion_matrix(["a", "b"], [[0, 0], [1, 2]], name="m")
    assert "2 of 3 clips" in svg


@pytest.mark.parametrize("name", ["$x_1$", "a $b$ c", "<b>&amp;</b>", "挥手", "يلوّح", "🤸", 'id="x" url(#y) #010101'])
def test_a_class_name_is_drawn_literally(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = confusion_matrix([name, "other"], [[1, 0], [0, 1]], name="m")
    assert texts(svg).count(name) == 2


def test_a_long_name_is_cut_with_an_ellipsis():
    words = texts(confusion_matrix(["x" * 80, "y"], [[1, 0], [0, 1]], name="m"))
    assert words.count("x" * 23 + "…") == 2


def test_very_many_classes_share_blocks_with_those_they_are_confused_with_named_after_the_first():
    counts = np.zeros((120, 120), int)
    for code in range(120):  # half of each class is predicted as the class 60 further on
        counts[code, [code, (code + 60) % 120]] = 5
    names = [f"{'a long name ' * 3}{code}" if code == 7 else f"c{code}" for code in range(120)]
    svg, size = confusion_figure(names, counts.tolist(), name="m")
    titles = [title.text for title in ElementTree.fromstring(svg).iter("title")]
    assert size == 2
    assert len(titles) == 60
    assert all(title.endswith(" predicted as one of them: 20 of 20 clips") for title in titles)
    assert {f"c{code}" for code in range(120)} >= {title.split(" +1")[0][2:] for title in titles if "long" not in title}
    assert any("“\u2068a long name a long n… +1\u2069”" in title for title in titles)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def epochs_of(*phases: tuple[str, int]) -> list[dict[str, Any]]:
    """Epochs of a network with the stages stem, layer4 and head; rates 1e-2 for the head, half that below."""
    stages = ["stem", "layer4", "head"]
    epochs: list[dict[str, Any]] = []
    for phase, (train, number) in enumerate(phases):
        learning = stages if train == "all" else stages[stages.index(train) :]
        rates = {stage: (0.01 if stage == "head" else 0.005) * (stage in learning) for stage in stages}
        for epoch_in_phase in range(1, number + 1):
            position = {
                "epoch": len(epochs) + 1,
                "phase": phase,
                "train": train,
                "epoch_in_phase": epoch_in_phase,
            }
            values = {
                "train_loss": 1 / (1 + len(epochs)),
                "train_top1": 0.5,
                "val_loss": 0.6,
                "val_top1": 0.4,
            }
            epochs.append(position | values | {"learning": list(learning), "lr": dict(rates)})
    return epochs
