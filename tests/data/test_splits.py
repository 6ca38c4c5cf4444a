"""Rows are divided as asked: shares, classes, whole groups and files, whatever order they come in."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.labels import Labels
from finetune.data.manifest import Manifest
from finetune.data.splits import assign_splits, file_ids, repair_folds, split_units, stratification_columns
from finetune.errors import DataError

NAMES = tuple("abcdef")


def labels_of(codes, number=None):
    codes = np.array(codes)
    names = NAMES[: number or codes.max() + 1]
    return Labels("classify", names, codes, codes < len(names))


def named(units):
    return np.array([f"unit {unit}" for unit in units], dtype=object)


def divided(codes, units, val, test, seed=0, number=None):
    return assign_splits([labels_of(codes, number)], named(units), (val, test, seed), source="clips.csv")


@pytest.mark.parametrize(
    ("val", "test"), [(0, 0.4), (0, 0.7), (0, 0.3), (0.4, 0), (0.3, 0.3), (0.15, 0.2), (0.05, 0.9)]
)
def test_the_share_asked_for_is_the_share_held_out_of_each_class(val, test):
    codes = np.repeat([0, 1, 2], 40)
    splits = divided(codes, range(120), val, test)
    for code, (name, share) in itertools.product(range(3), (("val", val), ("test", test))):
        assert (splits[codes == code] == name).sum() == round(40 * share)


def test_shares_of_everything_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data.val 0.5 and data.test 0.5 leave no training data"):
        divided([0, 1] * 8, range(16), 0.5, 0.5)


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7])
def test_a_few_groups_are_divided_with_the_usual_shares(number):
    for seed in range(3):
        splits = divided([0, 1] * 5 * number, np.repeat(range(number), 10), 0.15, 0.2, seed)
        assert (splits == "val").sum() == (splits == "test").sum() == 10


@pytest.mark.parametrize(
    ("codes", "units"),
    [([0, 1], [0, 1]), ([0, 0, 1, 1], [0, 0, 0, 1]), ([0] * 4 + [1] * 4, [0] * 4 + [1] * 4), ([0, 1, 2, 3], range(4))],
)
def test_where_no_division_teaches_every_class_that_is_said(codes, units):
    with pytest.raises(DataError, match=r"too few to hold out 15% for val and 20% for test: train would lack a class"):
        divided(codes, units, 0.15, 0.2)


@st.composite
def small_sets(draw, units=(1, 6)):
    """Codes, of which the last stands for no label, and units of a few rows each."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 10]), min_size=units[0], max_size=units[1]))
    rows = np.repeat(range(len(sizes)), sizes)
    number = draw(st.integers(2, 4))
    own = draw(st.lists(st.integers(0, number), min_size=len(sizes), max_size=len(sizes)))
    mixed = draw(st.lists(st.integers(0, number), min_size=len(rows), max_size=len(rows)))
    codes = np.where(draw(st.booleans()), np.array(own)[rows], np.array(mixed))
    return codes, rows, number


def cost_of(splits, columns_NC, shares):
    """(largest miss of a share, the cost that is minimised)."""
    counts_NC = np.column_stack([columns_NC, np.ones(len(splits))])
    total_C, weights_C = counts_NC.sum(0), np.append(np.ones(columns_NC.shape[1]), columns_NC.shape[1])
    off_SC = np.array([counts_NC[splits == name].sum(0) - share * total_C for name, share in shares.items() if share])
    return np.abs(off_SC[:, -1]).max() / len(splits), (off_SC**2 / np.maximum(total_C, 1) * weights_C).sum()


def every_valid(rows, columns_NC, needed_C, shares):
    wanted = ["train", *(name for name, share in shares.items() if share)]
    for choice in itertools.product(wanted, repeat=rows.max() + 1):
        splits = np.array(choice)[rows]
        if set(choice) == set(wanted) and (columns_NC[splits == "train"].any(0) | ~columns_NC.any(0))[needed_C].all():
            yield splits


@settings(max_examples=30, deadline=None)
@given(drawn=small_sets(), val=st.sampled_from([0, 0.15, 0.4]), test=st.sampled_from([0.2, 0.3, 0.5]))
def test_of_few_units_the_best_valid_division_is_taken_and_none_is_missed(drawn, val, test):
    codes, rows, number = drawn
    shares = {"val": val, "test": test}
    columns_NC, needed_C = stratification_columns([labels_of(codes, number)])
    costs = [cost_of(splits, columns_NC, shares)[1] for splits in every_valid(rows, columns_NC, needed_C, shares)]
    if not costs:
        with pytest.raises(DataError, match="too few to hold out"):
            divided(codes, rows, val, test, number=number)
        return
    splits = divided(codes, rows, val, test, number=number)
    assert cost_of(splits, columns_NC, shares)[1] == pytest.approx(min(costs), abs=1e-6)


@settings(max_examples=12, deadline=None)
@given(drawn=small_sets(units=(9, 30)), val=st.sampled_from([0, 0.15]), test=st.sampled_from([0.2, 0.4]))
def test_of_more_units_a_valid_division_is_found_where_two_can_be_spared(drawn, val, test):
    codes, rows, number = drawn
    columns_NC, needed_C = stratification_columns([labels_of(codes, number)])
    has_UC = np.array([columns_NC[rows == unit].any(0) for unit in range(rows.max() + 1)])[:, needed_C]
    out = range(len(has_UC))
    pairs = itertools.combinations(out, 2) if val else zip(out, out, strict=True)
    possible = any(np.delete(has_UC, pair, axis=0).any(0).all() for pair in pairs)
    if not possible:
        with pytest.raises(DataError, match="too few to hold out"):
            divided(codes, rows, val, test, number=number)
        return
    splits = divided(codes, rows, val, test, number=number)
    assert all(len(set(splits[rows == unit])) == 1 for unit in out)
    assert {"train", "test"} <= set(splits) and ("val" in set(splits)) == bool(val)
    assert columns_NC[splits == "train"].any(0)[needed_C].all()


@settings(max_examples=8, deadline=None)
@given(number=st.integers(12, 60), size=st.integers(1, 6), seed=st.integers(0, 99))
def test_shares_are_met_to_half_a_group_where_groups_are_alike(number, size, seed):
    rows = np.repeat(range(number), size)
    splits = divided(np.arange(len(rows)) % 2, rows, 0.15, 0.2, seed)
    for name, share in (("val", 0.15), ("test", 0.2)):
        assert abs((splits == name).sum() - share * len(rows)) <= max(size / 2, 1)


@settings(max_examples=8, deadline=None)
@given(drawn=small_sets(units=(3, 30)), seed=st.integers(0, 9), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(drawn, seed, shuffle):
    codes, rows, number = drawn
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    try:
        splits = divided(codes, rows, 0.15, 0.2, seed, number)
    except DataError:
        return
    assert divided(codes[order], rows[order], 0.15, 0.2, seed, number).tolist() == splits[order].tolist()


def test_one_more_clip_moves_few_others():
    moved = []
    for seed in range(8):
        codes = np.random.default_rng(seed).integers(0, 6, 300)
        before = divided(codes, range(300), 0.15, 0.2, seed)
        after = divided(np.append(codes, 0), range(301), 0.15, 0.2, seed)
        moved.append((before != after[:-1]).sum())
    assert np.mean(moved) < 3 and max(moved) <= 8  # of 300


def test_names_of_all_tasks_stay_in_training_and_are_spread():
    first = labels_of(np.repeat([0, 1], 30))
    place = labels_of([0] * 20 + [1] * 19 + [2] * 19 + [3] * 2)
    numbers = Labels("regress", ("age",), np.zeros((60, 1)), np.arange(60) == 7)
    for seed in range(10):
        splits = assign_splits([first, place, numbers], named(range(60)), (0.15, 0.2, seed), source="x")
        for labels in (first, place, numbers):
            assert labels.presence()[splits == "train"].any(0).all()
        assert [int(labels_there) for labels_there in place.presence()[splits == "test"].sum(0)[:3]] == [4, 4, 4]


def test_rows_of_one_file_go_together_however_it_is_written(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1.mp4", "a/2.mp4"):
        (tmp_path / name).write_bytes(b"x")
    os.link(tmp_path / "a/1.mp4", tmp_path / "hard.mp4")
    (tmp_path / "soft.mp4").symlink_to(tmp_path / "a/1.mp4")
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    written = ["a/1.mp4", "a/../a/1.mp4", "b/1.mp4", "hard.mp4", "soft.mp4", "a/2.mp4", "b/2.mp4", "gone.mp4"]
    paths = [tmp_path / name for name in written]
    assert file_ids(paths).tolist() == [0, 0, 0, 0, 0, 1, 1, 2]
    assert split_units(paths, None, root=tmp_path).tolist() == ["a/1.mp4"] * 5 + ["a/2.mp4"] * 2 + ["gone.mp4"]
    joined = split_units(paths, ["p", "q", "", "", "", "", "", "r"], root=tmp_path)
    assert joined.tolist() == ["b/1.mp4"] * 5 + ["a/2.mp4"] * 2 + ["r"]
    lines = [f"{name},{label}" for label in "xy" for name in (f"{label}{number}.mp4" for number in range(20))]
    for line in lines:
        (tmp_path / line.partition(",")[0]).write_bytes(b"x")
    (tmp_path / "clips.csv").write_text("\n".join(["path,label", *lines, *lines]))
    manifest = Manifest.from_csv(tmp_path / "clips.csv")
    assert manifest.splits[:40].tolist() == manifest.splits[40:].tolist()


def test_a_class_that_one_fold_has_alone_is_given_to_another_too():
    units = named(range(12))
    labels = labels_of([0] * 5 + [1] * 5 + [2] * 2)
    folds = [np.array([0, 1, 5, 6]), np.array([2, 3, 7, 8]), np.array([4, 9, 10, 11])]
    found = repair_folds(folds, [labels], units)
    assert sorted(np.concatenate(found).tolist()) == list(range(12))
    assert all(set(labels.values[rows]) != {2} and not {10, 11} <= set(rows.tolist()) for rows in found)
    good = [np.array([0, 1, 5, 10]), np.array([2, 3, 7, 8, 6]), np.array([4, 9, 11])]
    assert [rows.tolist() for rows in repair_folds(good, [labels], units)] == [sorted(rows.tolist()) for rows in good]
    filled = repair_folds([np.arange(12), np.array([], dtype=int)], [labels], units)
    assert all(labels.presence()[rows].any(0).all() for rows in filled)
