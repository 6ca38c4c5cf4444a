"""Rows divided into folds of whole groups."""

import numpy as np
import pytest
from grey import make_clip

import finetune as ft
from finetune.errors import DataError
from finetune.study.folds import fold_manifests, fold_rows


def manifest_of(folder, labels, groups=None):
    header = "path,label" + ",group" * bool(groups)
    lines = [
        ",".join([make_clip(folder / f"{number}.mp4").name, label, *([groups[number]] if groups else [])])
        for number, label in enumerate(labels)
    ]
    (folder / "clips.csv").write_text("\n".join([header, *lines]) + "\n")
    return ft.Manifest.from_csv(folder / "clips.csv", val=0, test=0)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """24 clips of 8 people, each of whom shows both classes."""
    groups = [f"person {number // 3}" for number in range(24)]
    return manifest_of(tmp_path_factory.mktemp("grouped"), ["dark", "bright"] * 12, groups)


def test_every_row_is_tested_once_and_a_group_is_in_one_split_of_a_fold(grouped):
    folds = fold_manifests(grouped, 3, val=0.2, seed=0)
    assert sorted(np.concatenate([fold.rows("test") for fold in folds])) == list(range(24))
    for fold in folds:
        groups = [set(fold.groups[fold.rows(split)]) for split in ("train", "val", "test")]
        assert all(groups)
        assert sum(map(len, groups)) == 8


def test_one_group_at_a_time(grouped):
    rows = fold_rows(grouped, None, seed=0)
    assert [set(grouped.groups[test].tolist()) for test in rows] == [{f"person {number}"} for number in range(8)]


def test_too_few_groups_or_clips_are_refused(grouped, tmp_path):
    with pytest.raises(DataError, match="8 groups cannot make 10 folds"):
        fold_rows(grouped, 10, seed=0)
    few = manifest_of(tmp_path, ["common"] * 5 + ["rare"])
    with pytest.raises(DataError, match="has no groups to leave out; add a column group"):
        fold_rows(few, None, seed=0)
    with pytest.raises(
        DataError, match=r"fold \d: test has rare, which is not in train.*\nuse fewer folds, data.val=0"
    ):
        fold_manifests(few, 3, val=0, seed=0)


def test_splits_that_the_table_has_are_ignored_leaks_included(grouped, tmp_path):
    header, *lines = grouped.source.read_text().splitlines()
    lines = [f"{grouped.source.parent}/{line},{'test' if n % 2 else 'train'}" for n, line in enumerate(lines)]
    path = tmp_path / "divided.csv"
    path.write_text("\n".join([f"{header},split", *lines]))
    with pytest.raises(DataError, match="a leak"):
        ft.Manifest.from_csv(path)
    assert set(ft.Manifest.from_csv(path, whole=True).splits) == {"train"}
