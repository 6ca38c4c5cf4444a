import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import DataError
from finetune.manifest import Manifest, divide
from finetune.manifest_files import find_media


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def write(root, text):
    path = root / "clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_of_splits_keeps_them(tmp_path):
    names = ["train/a/1.mp4", "train/b/2.avi", "validation/a/3.mp4", "test/b/child's pose.MP4"]
    touch(tmp_path, *names, "train/a/notes.txt", "train/b/.hidden.mp4")
    manifest = Manifest.from_folder(tmp_path)
    assert [manifest.path(row).relative_to(tmp_path).as_posix() for row in range(4)] == [
        "test/b/child's pose.MP4",
        *names[:3],
    ]
    assert manifest.splits.tolist() == ["test", "train", "train", "val"]
    assert manifest.classes == ("a", "b")


def test_names_may_be_of_any_script(tmp_path):
    touch(tmp_path, *[f"{name}/{n} é.mp4" for name in ("बैठना", "走る ok", "a;b,c") for n in range(10)])
    manifest = Manifest.from_folder(tmp_path)
    assert manifest.classes == ("a;b,c", "बैठना", "走る ok")
    manifest.to_csv(tmp_path / "copy.csv")
    again = Manifest.from_csv(tmp_path / "copy.csv")
    assert again.classes == manifest.classes
    assert again.paths.tolist() == manifest.paths.tolist()
    assert again.splits.tolist() == manifest.splits.tolist()


def test_rows_without_a_split_are_divided_by_class_and_seed(tmp_path):
    touch(tmp_path, *[f"{name}/{n}.mp4" for name in "abc" for n in range(20)])
    manifest = Manifest.from_folder(tmp_path, val=0.2, test=0.2)
    assert manifest.counts("test") == {"a": 4, "b": 4, "c": 4}
    assert manifest.counts("val") == {"a": 4, "b": 4, "c": 4}
    assert Manifest.from_folder(tmp_path, val=0.2, test=0.2).splits.tolist() == manifest.splits.tolist()
    assert Manifest.from_folder(tmp_path, val=0.2, test=0.2, seed=1).splits.tolist() != manifest.splits.tolist()


def test_a_pattern_finds_groups_in_paths(tmp_path):
    touch(tmp_path, *[f"{name}/v_g{group:02}_{n}.mp4" for name in "ab" for group in range(8) for n in range(2)])
    manifest = Manifest.from_folder(tmp_path, group_pattern=r"_g(\d+)_")
    sides = {group: set(manifest.splits[manifest.groups == group]) for group in set(manifest.groups)}
    assert all(len(side) == 1 for side in sides.values())
    with pytest.raises(DataError, match="finds no group in a/v_g00_0.mp4"):
        Manifest.from_folder(tmp_path, group_pattern="person(.)")


@settings(max_examples=60, deadline=None)
@given(
    num_groups=st.integers(8, 30),
    sizes=st.lists(st.integers(1, 6), min_size=30, max_size=30),
    seed=st.integers(0, 5),
)
def test_a_group_is_never_divided(num_groups, sizes, seed):
    groups = np.repeat(np.arange(num_groups), sizes[:num_groups])
    labels = np.arange(len(groups)) % 2
    if np.bincount(labels).max() < 7:
        return
    splits = divide(labels, groups, (0.15, 0.2, seed), source="it")
    for group in range(num_groups):
        assert len(set(splits[groups == group])) == 1
    assert {"train", "test"} <= set(splits)


def test_a_csv_is_read_with_paths_relative_to_it(tmp_path):
    touch(tmp_path, "a 1.mp4", "sub/b.mp4", "c.mp4")
    path = write(tmp_path, "﻿label,path,split,extra\nx,a 1.mp4,train,7\ny,sub/b.mp4,Training,8\nx,c.mp4,test,9\n")
    manifest = Manifest.from_csv(path)
    assert [manifest.path(row) for row in range(3)] == [tmp_path / n for n in ("a 1.mp4", "sub/b.mp4", "c.mp4")]
    assert manifest.splits.tolist() == ["train", "train", "test"]
    assert manifest.groups is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "no column path.*it has file, label"),
        ("path,labels\na.mp4,x\n", r"no column label \(nearest: labels\)"),
        ("path,label\n", "a header and no rows"),
        ("path,label\na.mp4,\n", "no label in line 2"),
        ("path,label\na.mp4,x\nb.mp4,x\n", "x is the only class"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,tset\n", "unknown split tset"),
        ("path,label,split\na.mp4,x,test\nb.mp4,y,test\n", "no row is in the split train"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,z,test\n", "test has z, which train has not"),
        (
            "path,label,split\na.mp4,x,train\nb.mp4,y,train\na.mp4,x,test\n",
            "file .*a.mp4 is in train and in test: a leak",
        ),
        (
            "path,label,split,group\na.mp4,x,train,p1\nb.mp4,y,train,p2\nc.mp4,x,test,p1\n",
            "group p1 is in train and in test: a leak",
        ),
        ("path,label\na.mp4,x\nb.mp4,y\n", "too few to hold out"),
        ("path,label\nn1.mp4,x\nn2.mp4,y\nc.mp4,y\n", "2 of 3 files are not there: .*n1.mp4, .*n2.mp4"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path, text, message):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    with pytest.raises(DataError, match=message):
        Manifest.from_csv(write(tmp_path, text))


def test_all_problems_of_a_manifest_are_said_at_once(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "path,label,split,group\na.mp4,x,train,p\nb.mp4,y,train,q\nb.mp4,y,test,q\nc.mp4,z,test,p\n"
    with pytest.raises(DataError) as error:
        Manifest.from_csv(write(tmp_path, text))
    assert [phrase in str(error.value) for phrase in ("has z", "file ", "group p, q")] == [True] * 3


def test_empty_classes_are_named(tmp_path):
    touch(tmp_path, "a/1.mp4")
    (tmp_path / "b").mkdir()
    (tmp_path / "c" / "deep").mkdir(parents=True)
    with pytest.raises(DataError, match="no video or image in b, c"):
        Manifest.from_folder(tmp_path)


def test_a_missing_folder_or_file_is_said(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        Manifest.from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no manifest .*finetune data quickstart"):
        Manifest.from_csv(tmp_path / "quickstart" / "manifest.csv")


def test_media_in_a_folder_are_found_in_order(tmp_path):
    touch(tmp_path, "b.mp4", "a/x.jpg", "a/readme.md")
    assert find_media(tmp_path) == [tmp_path / "a/x.jpg", tmp_path / "b.mp4"]
    assert find_media(tmp_path / "b.mp4") == [tmp_path / "b.mp4"]


def test_dropping_rows_keeps_classes(tmp_path):
    touch(tmp_path, *[f"train/{name}/{n}.mp4" for name in "ab" for n in range(2)])
    manifest = Manifest.from_folder(tmp_path).without([0, 1])
    assert len(manifest) == 2
    assert manifest.classes == ("a", "b")
    assert manifest.counts("train") == {"a": 0, "b": 2}
