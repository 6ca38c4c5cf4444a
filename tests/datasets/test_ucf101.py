"""UCF101's manifests from small trees and archives with the official layout."""

import csv
import shutil
import zipfile
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from finetune.data.manifest import Manifest
from finetune.datasets.ucf101 import prepare_ucf101
from finetune.errors import DataError, FinetuneError

CLASSES = ("Archery", "HandStandPushups", "YoYo")
GROUPS = tuple(f"g{number:02d}" for number in range(1, 11))
TESTED = {
    1: GROUPS[:3],
    2: GROUPS[3:6],
    3: GROUPS[6:],
}  # the official lists do it so: groups 1-7, 8-14, 15-21


def clip_name(label, group, clip):
    return f"v_{label}_{group}_c{clip:02d}.avi"


def video_files(folder="UCF-101/"):
    """As in the official archive, where one folder is spelled differently from its files and the lists."""
    folders = {"HandStandPushups": "HandstandPushups"}
    return {
        f"{folder}{folders.get(label, label)}/{clip_name(label, group, clip)}": b"video"
        for label, group, clip in product(CLASSES, GROUPS, (1, 2))
    }


def list_files(folder="ucfTrainTestlist/"):
    lists = {}
    for split, tested in TESTED.items():
        lines = {"train": [], "test": []}
        for (number, label), group, clip in product(enumerate(CLASSES, start=1), GROUPS, (1, 2)):
            side = "test" if group in tested else "train"
            index = f" {number}" if side == "train" else ""
            lines[side].append(f"{label}/{clip_name(label, group, clip)}{index}\r\n")
        lists |= {f"{folder}{side}list{split:02d}.txt": "".join(text).encode() for side, text in lines.items()}
    return lists


def write_tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "ucf101"
    write_tree(root, video_files() | list_files())
    return root


def test_a_tree_gives_three_manifests_without_any_network(tree):
    paths = prepare_ucf101(tree, base_url="http://127.0.0.1:1")
    assert paths == [tree / "split1.csv", tree / "split2.csv", tree / "split3.csv"]
    for path in paths:
        rows = read(path)
        assert list(rows[0]) == ["path", "label", "split", "group"]
        assert Counter(row["label"] for row in rows) == dict.fromkeys(CLASSES, 20)
        assert all((tree / row["path"]).is_file() for row in rows)
        assert len({row["path"] for row in rows}) == len(rows)


def test_official_test_clips_are_the_test_clips_and_no_others(tree):
    for (split, tested), path in zip(TESTED.items(), prepare_ucf101(tree), strict=True):
        found = {row["group"] for row in read(path) if row["split"] == "test"}
        assert found == {f"{label}_{group}" for label, group in product(CLASSES, tested)}, split


def test_a_group_is_of_one_class_and_lies_on_one_side(tree):
    for path in prepare_ucf101(tree):
        sides = {}
        for row in read(path):
            sides.setdefault(row["group"], set()).add((row["label"], row["split"]))
        assert len(sides) == len(CLASSES) * len(GROUPS)
        assert all(len(side) == 1 for side in sides.values())


@pytest.mark.parametrize("val_groups", [0, 1, 2, 5])
def test_val_is_that_many_groups_of_each_class_from_train(tree, val_groups):
    for path in prepare_ucf101(tree, val_groups=val_groups):
        held_out = {(row["label"], row["group"]) for row in read(path) if row["split"] == "val"}
        expected = dict.fromkeys(CLASSES, val_groups) if val_groups else {}
        assert Counter(label for label, _ in held_out) == expected


def test_val_groups_do_not_depend_on_the_machine(tree):
    held_out = {row["group"] for row in read(prepare_ucf101(tree)[0]) if row["split"] == "val"}
    assert held_out == {
        *("Archery_g05", "Archery_g06"),
        *("HandStandPushups_g06", "HandStandPushups_g08"),
        *("YoYo_g06", "YoYo_g08"),
    }


def test_val_that_would_leave_a_class_nothing_to_train_on_is_refused(tree):
    with pytest.raises(DataError, match=r"Archery, HandStandPushups, YoYo would have no group .* below 7"):
        prepare_ucf101(tree, val_groups=7)
    with pytest.raises(DataError, match=r"val_groups is -1"):
        prepare_ucf101(tree, val_groups=-1)


def test_the_manifests_are_what_the_trainer_reads_and_without_leaks(tree):
    for path in prepare_ucf101(tree):
        manifest = Manifest.from_csv(path)
        assert manifest.classes == CLASSES
        assert all(count for split in ("train", "val", "test") for count in manifest.counts(split).values())
        assert len(manifest) == 60


def test_names_are_matched_in_any_case_and_written_as_they_are_on_the_disk(tree):
    rows = [row for row in read(prepare_ucf101(tree)[0]) if row["label"] == "HandStandPushups"]
    assert {Path(row["path"]).parent.as_posix() for row in rows} == {"UCF-101/HandstandPushups"}


@pytest.mark.parametrize("folder", ["", "UCF-101/", "UCF101/UCF-101/"])
@pytest.mark.parametrize("lists", ["", "ucfTrainTestlist/", "annotations/recognition/"])
def test_videos_and_lists_are_found_wherever_they_were_unpacked(tmp_path, folder, lists):
    write_tree(tmp_path, video_files(folder) | list_files(lists))
    rows = read(prepare_ucf101(tmp_path)[0])
    assert len(rows) == 60
    assert rows[0]["path"].startswith(f"{folder}Archery/v_Archery_g")


def test_videos_behind_a_link_are_found(tmp_path):
    write_tree(tmp_path / "shared", video_files(""))
    write_tree(tmp_path / "mine", list_files())
    (tmp_path / "mine" / "UCF-101").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "loop").symlink_to(tmp_path / "shared")
    assert len(read(prepare_ucf101(tmp_path / "mine")[0])) == 60


def test_missing_clips_are_counted_and_the_first_five_named(tree):
    (tree / "split1.csv").write_text("earlier")
    shutil.rmtree(tree / "UCF-101" / "YoYo")
    with pytest.raises(DataError) as error:
        prepare_ucf101(tree)
    message = str(error.value)
    assert "20 of 60 listed clips are missing: v_YoYo_g04_c01.avi, " in message
    assert message.count("v_YoYo") == 5
    assert "and 15 more" in message
    assert (tree / "split1.csv").read_text() == "earlier"


def test_a_missing_list_is_named(tree):
    (tree / "ucfTrainTestlist" / "testlist03.txt").unlink()
    with pytest.raises(DataError, match=r"testlist03\.txt: is missing"):
        prepare_ucf101(tree)


def test_a_line_that_is_no_clip_is_quoted(tree):
    with (tree / "ucfTrainTestlist" / "trainlist02.txt").open("a") as file:
        file.write("\nArchery/../../etc.avi 1\n")
    with pytest.raises(DataError, match=r"trainlist02\.txt: line \d+ is 'Archery/\.\./\.\./etc\.avi 1', not"):
        prepare_ucf101(tree)


def test_archives_are_unpacked_and_the_second_run_needs_them_no_more(tmp_path):
    root = tmp_path / "ucf101"
    videos = write_zip(tmp_path / "UCF101.rar", video_files())
    lists = write_zip(tmp_path / "lists.zip", list_files())
    first = [read(path) for path in prepare_ucf101(root, archive=videos, splits_archive=lists)]
    videos.unlink()
    lists.unlink()
    assert [read(path) for path in prepare_ucf101(root)] == first
    found = sorted(path.name for path in root.iterdir())
    assert found == ["UCF-101", "split1.csv", "split2.csv", "split3.csv", "ucfTrainTestlist"]


def test_what_is_missing_is_fetched_and_unpacked(tmp_path, server):
    server.files["UCF101.rar"] = write_zip(tmp_path / "a", video_files()).read_bytes()
    splits = "UCF101TrainTestSplits-RecognitionTask.zip"
    server.files[splits] = write_zip(tmp_path / "b", list_files()).read_bytes()
    told = []
    root = tmp_path / "ucf101"
    prepare_ucf101(root, base_url=f"{server.url}/", progress=lambda text, *_: told.append(text))
    assert len(read(root / "split1.csv")) == 60
    assert server.requests == [(f"/{splits}", None), ("/UCF101.rar", None)]
    steps = [f"{verb} {name}" for name in (splits, "UCF101.rar") for verb in ("download", "unpack")]
    assert list(dict.fromkeys(told)) == steps


def test_without_a_network_the_message_says_what_to_fetch_by_hand(tmp_path, no_pauses):
    with pytest.raises(FinetuneError, match=r"RecognitionTask\.zip: cannot be reached.* --splits-archive$"):
        prepare_ucf101(tmp_path, base_url="http://127.0.0.1:1")
    write_tree(tmp_path, list_files())
    with pytest.raises(FinetuneError, match=r"/UCF101\.rar: cannot be reached.*by hand .* --archive$"):
        prepare_ucf101(tmp_path, base_url="http://127.0.0.1:1")


def test_archives_of_something_else_are_told(tmp_path):
    other = write_zip(tmp_path / "other.zip", {"a.txt": b""})
    with pytest.raises(DataError, match=r"other\.zip: contains no trainlist01\.txt"):
        prepare_ucf101(tmp_path / "one", splits_archive=other)
    write_tree(tmp_path / "two", list_files())
    with pytest.raises(DataError, match=r"60 of 60 listed clips are missing"):
        prepare_ucf101(tmp_path / "two", archive=other)


def test_half_unpacked_videos_of_a_killed_run_do_not_count(tmp_path):
    root = tmp_path / "ucf101"
    hidden = {f".UCF-101.unpacking/{name}": content for name, content in list(video_files().items())[:30]}
    write_tree(root, hidden | list_files())
    prepare_ucf101(root, archive=write_zip(tmp_path / "UCF101.rar", video_files()))
    assert not (root / ".UCF-101.unpacking").exists()
    assert all(row["path"].startswith("UCF-101/") for row in read(root / "split1.csv"))
