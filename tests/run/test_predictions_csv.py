"""What is written of each row is what is read again."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.run.predictions_csv import (
    COLUMNS,
    PredictionRow,
    read_prediction_rows,
    top_classes,
    write_class_predictions,
)

CLASSES = ("a,b", "挥手", 'say "hi"', "line\nbreak", "e", "f")


@pytest.fixture
def manifest(tmp_path):
    paths = np.array([f"/clips/{name}.mp4".encode() for name in ("é", "a b", "c,d", 'e"f')])
    groups = np.array(["one", "one", "2;3", ""])
    return Manifest(tmp_path, CLASSES, paths, np.array([0, 1, 2, 3]), np.full(4, "test"), groups)


def probabilities(rows=4):
    probs = np.random.default_rng(0).random((rows, 6)).astype(np.float32)
    return probs / probs.sum(1, keepdims=True)


def test_what_is_written_is_read(manifest, tmp_path):
    rows, probs = np.array([0, 2, 3]), probabilities(3)
    write_class_predictions(tmp_path, manifest, rows, probs)
    found = read_prediction_rows(tmp_path)
    assert [each.path for each in found] == [str(manifest.path(row)) for row in rows]
    assert [each.label for each in found] == [CLASSES[row] for row in rows]
    assert [each.predicted for each in found] == [CLASSES[code] for code in probs.argmax(1)]
    assert [each.group for each in found] == ["one", "2;3", ""]
    for each, probs_K in zip(found, probs, strict=True):
        assert list(each.top_k) == [CLASSES[code] for code in np.argsort(-probs_K)[:5]]
        assert each.probability == pytest.approx(probs_K.max(), abs=1e-6) == next(iter(each.top_k.values()))
        assert each.margin == pytest.approx(np.diff(np.sort(probs_K))[-1], abs=2e-6)
        assert each.is_correct == (each.label == each.predicted)
    np.testing.assert_array_equal(np.load(tmp_path / "probabilities.npy"), probs)


def test_of_several_classes_those_that_are_named_are_told_and_of_no_groups_none(manifest, tmp_path):
    targets = np.eye(6, dtype=bool)[[0, 1, 2, 3]]
    several = replace(manifest, targets=targets, groups=None, classes=("a", "b", "c", "d", "e", "f"))
    named = np.array([[1, 0, 1, 0, 0, 0], [0] * 6, [0, 0, 1, 0, 0, 0], [1] * 6], dtype=bool)
    write_class_predictions(tmp_path, several, np.arange(4), probabilities(), named)
    found = read_prediction_rows(tmp_path)
    assert [each.predicted for each in found] == ["a;c", "", "c", "a;b;c;d;e;f"]
    assert [each.is_correct for each in found] == [False, False, True, False]
    assert {each.group for each in found} == {""}


def test_of_equally_likely_classes_the_first_is_named_as_by_argmax():
    probs = np.array([0.2, 0.4, 0.4], dtype=np.float32)
    assert top_classes(probs, ("a", "b", "c"), count=2) == [("b", 0.4), ("c", 0.4)]
    assert top_classes(probs, ("a", "b", "c"), count=9)[0][0] == ("a", "b", "c")[probs.argmax()]


def test_the_margin_of_a_single_class_and_of_none_is_what_there_is():
    assert PredictionRow("p", "a", "a", 0.7, {"a": 0.7}, "").margin == 0.7
    assert PredictionRow("p", "a", "a", 0.7, {}, "").margin == 0


def test_a_file_of_before_groups_has_none_and_no_file_gives_none(tmp_path):
    assert read_prediction_rows(tmp_path) is None
    (tmp_path / "predictions.csv").write_text('path,label,predicted,probability,top_k\nx,a,b,0.5,"[[""b"", 0.5]]"\n')
    assert read_prediction_rows(tmp_path) == [PredictionRow("x", "a", "b", 0.5, {"b": 0.5}, "")]


@pytest.mark.parametrize(
    "row",
    [
        ["x", "a", "b", "likely", "[]", ""],
        ["x", "a", "b", "0.5", "{", ""],
        ["x", "a", "b", "0.5", "5", ""],
        ["x", "a", "b", "0.5", '[["a"]]', ""],
        ["x", "a"],
        ["x", "a", "b", "0.5", "[" * 100_000, ""],
        ["x", "a", "b", "0.5", "[" + " " * 200_000 + "]", ""],  # more than the csv module takes
    ],
)  # fmt: skip
def test_a_damaged_row_is_named_with_what_to_do(tmp_path, row):
    good = ["x", "a", "b", 0.5, json.dumps([["b", 0.5]]), ""]
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, good, row])
    with pytest.raises(RunError, match=r"predictions.csv, row 3: cannot be read as path,.*evaluate the run again"):
        read_prediction_rows(tmp_path)
