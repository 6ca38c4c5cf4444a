"""The confusion matrix: tooltips of its cells, and more classes than a page can show."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.report.run.confusion_plot import (
    DARK_FILL,
    MAX_MATRIX_CLASSES,
    NUM_BLOCKS,
    confusion_figure,
    confusion_matrix,
    similarity_order,
)
from finetune.report.svg import fill_with_opacity


def cells(svg):
    """data-cell: (title, rect) of a drawing."""
    rects = [rect for rect in ElementTree.fromstring(svg).iter() if rect.get("data-cell")]
    return {rect.get("data-cell"): (re.sub("[\u2066-\u2069]", "", rect[0].text), rect) for rect in rects}


def pairs_of(number):
    """Counts (K, K) in which class n is confused with n + K / 2, which is far from it in the order of names."""
    table = np.zeros((number, number), dtype=int)
    for code in range(number):
        table[code, code], table[code, (code + number // 2) % number] = 3, 2
    return table


def test_each_cell_with_clips_has_a_tooltip():
    titled = cells(confusion_matrix(["a", "<b>"], [[3, 1], [0, 4]], name="confusion-0"))
    assert {cell: title for cell, (title, _) in titled.items()} == {
        "0,0": "“a” predicted correctly: 3 of 4 clips",
        "0,1": "“a” predicted as “<b>”: 1 of 4 clips",
        "1,1": "“<b>” predicted correctly: 4 of 4 clips",
    }
    boxes = {cell: {key: float(rect.get(key)) for key in ("x", "y", "width")} for cell, (_, rect) in titled.items()}
    side = boxes["0,0"]["width"]
    assert boxes["0,1"]["x"] - boxes["0,0"]["x"] == pytest.approx(side, abs=0.02)
    assert boxes["0,1"]["y"] == boxes["0,0"]["y"]
    assert boxes["1,1"]["y"] - boxes["0,1"]["y"] == pytest.approx(side, abs=0.02)


def test_up_to_a_hundred_classes_are_shown_one_by_one():
    names = [f"class {number}" for number in range(MAX_MATRIX_CLASSES)]
    drawing, size = confusion_figure(names, pairs_of(MAX_MATRIX_CLASSES), name="confusion-0")
    assert size == 0
    assert len(cells(drawing)) == 2 * MAX_MATRIX_CLASSES


def test_more_classes_are_merged_into_blocks_of_classes_that_are_confused():
    names = [f"class {number}" for number in range(120)]
    drawing, size = confusion_figure(names, pairs_of(120), name="confusion-0")
    assert size == 2
    titled = cells(drawing)
    assert set(titled) == {f"{block},{block}" for block in range(NUM_BLOCKS)}, "each block is a pair"
    for title, _ in titled.values():
        assert re.search(r"class \d+ \+1", title)
        assert title.endswith(" predicted as one of them: 10 of 10 clips")
    label = ElementTree.fromstring(drawing).get("aria-label")
    assert label == "Confusion matrix of 120 classes in blocks of 2: 360 of 600 clips correct."


@pytest.mark.parametrize("number", [101, 119, 401])
def test_every_clip_is_in_a_block(number):
    table = np.random.default_rng(0).integers(0, 2, (number, number))
    drawing, size = confusion_figure([str(code) for code in range(number)], table, name="confusion-0")
    blocks = -(-number // size)
    assert blocks <= NUM_BLOCKS
    titled = cells(drawing)
    if titled:  # very many cells are not clickable
        assert sum(int(re.search(r": (\d+) of", title)[1]) for title, _ in titled.values()) == table.sum()
    assert f": {np.trace(table)} of {table.sum()} clips correct" in drawing


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.randoms(use_true_random=False))
def test_the_order_has_each_class_once(number, random):
    table = np.array([[random.choice([0, 0, 0, 1, 5]) for _ in range(number)] for _ in range(number)])
    assert sorted(similarity_order(table).tolist()) == list(range(number))


def test_classes_that_are_confused_most_are_neighbours():
    table = np.diag([10] * 6)
    table[0, 5] = table[5, 0] = 8
    table[1, 3] = 4
    order = similarity_order(table).tolist()
    for one, other in ((0, 5), (1, 3)):
        assert abs(order.index(one) - order.index(other)) == 1


@pytest.mark.parametrize(
    ("page", "on_tint", "brightness"), [("#ffffff", "#000000", 1.0), ("#10161c", "#e8edf2", 1.3)], ids=["light", "dark"]
)
def test_numbers_in_cells_of_every_shade_are_legible(page, on_tint, brightness):
    rgb_of = lambda colour: np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])  # noqa: E731
    for cell in fill_with_opacity(np.linspace(0.15, 1, 60)):
        ground = cell[3] * np.minimum(1, brightness * cell[:3]) + (1 - cell[3]) * rgb_of(page)
        number = rgb_of("#ffffff" if cell[3] > DARK_FILL else on_tint)
        dark, light = sorted(0.05 + _luminance(colour) for colour in (ground, number))
        assert light / dark >= 4.5


def _luminance(rgb):
    """WCAG 2.1, of sRGB values in 0…1."""
    return [0.2126, 0.7152, 0.0722] @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
