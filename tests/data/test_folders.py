"""How a folder of videos is read: its layout, links inside it, and skipped files."""

import os

import pytest

from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.data.read import find_media, scan_folder
from finetune.errors import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def clips(*folders, count=1):
    return [f"{folder}/{number}.mp4" for folder in folders for number in range(count)]


def layout(root):
    scan = scan_folder(root)
    assert not scan.problems, scan.problems
    return sorted(set(zip(scan.splits or [""] * len(scan.files), scan.labels, strict=True)))


def refusal(root):
    with pytest.raises(DataError) as error:
        Manifest.from_folder(root)
    found = read_rows(root, group_pattern=None, shares=(0.15, 0.2, 0)).findings
    (mend,) = [each.what for each in found if each.kind in {"layout", "empty_class"}]
    text = str(error.value).removeprefix(f"{root}: ")
    assert mend[1:] == f"{text[1:]}."  # check says the same
    return text


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("train", "val", "test"), {"train", "val", "test"}),
        (("Train", "VALID", "Testing"), {"train", "val", "test"}),
        (("training", "validation"), {"train", "val"}),
        (("train", "dev"), {"train", "val"}),
        (("train", "test", ".git", "@eaDir", "__MACOSX"), {"train", "test"}),
    ],
)
def test_folders_that_are_all_named_as_splits_are_splits(tmp_path, names, wanted):
    touch(tmp_path, *clips(*(f"{name}/{label}" for name in names for label in "ab")))
    assert layout(tmp_path) == sorted((split, label) for split in wanted for label in "ab")


@pytest.mark.parametrize(
    "extra", [("clips_old/a",), ("unlabelled",), ("annotations",), ("test2/a", "test2/b"), ("train_val/a",)]
)
def test_a_folder_beside_the_splits_is_refused_by_its_name(tmp_path, extra):
    touch(tmp_path, *clips("train/a", "train/b", "val/a", "test/b", *extra))
    name = extra[0].partition("/")[0]
    text = refusal(tmp_path)
    assert text.startswith(
        f"split folders (test, train, val) next to other folders ({name}): move {name} elsewhere or into a split"
    )
    assert "a CSV with path,label" in text


def test_one_split_beside_folders_of_classes_is_refused_and_an_empty_extra_folder_too(tmp_path):
    touch(tmp_path, *clips("train/a", "train/b", "dog"))
    assert refusal(tmp_path).startswith("split folders (train) next to other folders (dog): move dog elsewhere")
    touch(tmp_path / "2", *clips("train/a", "train/b", "test/a"))
    (tmp_path / "2" / "notes").mkdir()
    assert "next to other folders (notes)" in refusal(tmp_path / "2")


def test_one_class_among_others_may_be_named_as_a_split_and_that_is_said(tmp_path):
    touch(tmp_path, *clips("train", "car", "bus", count=9))
    manifest = Manifest.from_folder(tmp_path)
    assert manifest.classes == ("bus", "car", "train")
    assert manifest.notes == ("the folder “train” is read as a class, not as a split",)


def test_videos_directly_in_splits_are_no_classes(tmp_path):
    touch(tmp_path, *clips("train", "test"))
    assert refusal(tmp_path).startswith(
        "no class folders in test, train: put each class's videos into <split>/<class>/"
    )
    touch(tmp_path / "2", *clips("train/a", "train/b", "test/a"))
    (tmp_path / "2" / "val").mkdir()
    assert refusal(tmp_path / "2").startswith("no class folders in val: ")
    (tmp_path / "2" / "val" / "a").mkdir()
    assert refusal(tmp_path / "2") == "no video or image in val/a"


def test_splits_within_classes_are_refused(tmp_path):
    touch(tmp_path, *clips("cat/train", "cat/test", "dog/train", "dog/test"))
    text = refusal(tmp_path)
    assert text == "split folders (test, train) inside cat, dog: put the splits first, as in test/cat"
    touch(tmp_path / "up", *clips("set/train/a", "set/test/a"))
    assert refusal(tmp_path / "up").endswith(
        f"inside set: use data.folder={tmp_path / 'up/set'} if the splits contain class folders"
    )


@pytest.mark.parametrize("names", [("Training Set", "test_set"), ("train2017", "val2017"), ("ucf-test", "ucf-train")])
def test_folders_named_almost_as_splits_are_no_classes(tmp_path, names):
    touch(tmp_path, *clips(*(f"{name}/{label}" for name in names for label in "ab")))
    assert refusal(tmp_path).startswith(
        f"folder names similar to splits ({', '.join(names)}): name them train, val and test"
    )
    touch(tmp_path / "2", *clips("train ride", "trainer", "contest", count=9))
    assert Manifest.from_folder(tmp_path / "2").classes == ("contest", "train ride", "trainer")


def test_a_class_may_lie_deep_and_in_one_split_only(tmp_path):
    touch(tmp_path, *clips("train/a/2020/may", "train/b/test", "test/b/x/train"))
    assert layout(tmp_path) == [("test", "b"), ("train", "a"), ("train", "b")]
    touch(tmp_path, *clips("test/c"))
    with pytest.raises(DataError, match="test has c, which is not in train"):
        Manifest.from_folder(tmp_path)


def test_links_are_followed_and_no_file_comes_twice(tmp_path):
    touch(tmp_path, *clips("data/a/x", "data/b", "elsewhere/deep/more"))
    touch(tmp_path, "elsewhere/one.mp4")
    link = {
        "data/a/linked": tmp_path / "elsewhere",
        "data/b/file.mp4": tmp_path / "elsewhere/one.mp4",
        "data/a/again": tmp_path / "data/a/x",  # read already
        "data/a/self": tmp_path / "data/a",
        "data/a/x/up": tmp_path / "data",
        "data/b/root": tmp_path,
        "elsewhere/deep/back": tmp_path / "elsewhere",
        "data/a/gone": tmp_path / "nowhere",
        "data/c": tmp_path / "elsewhere/deep",
    }
    for name, target in link.items():
        (tmp_path / name).symlink_to(target)
    scan = scan_folder(tmp_path / "data")
    found = [file.relative_to(tmp_path / "data").as_posix() for file in scan.files]
    assert found == [
        "a/linked/deep/more/0.mp4",
        "a/linked/one.mp4",
        "a/x/0.mp4",
        "b/0.mp4",
        "b/file.mp4",
        "c/more/0.mp4",
    ]
    assert scan.labels == ["a", "a", "a", "b", "b", "c"]
    assert scan.skip_counts["broken link"] == 1
    assert scan.skip_counts["link to a folder that is already included"] >= 5
    assert find_media(tmp_path / "data/a") == sorted(scan.files[:3])


DEVICES = [
    "@eaDir/0.mp4/SYNO.jpg",
    "__MACOSX/a/._0.mp4",
    ".AppleDouble/0.mp4",
    ".Trashes/1/0.mp4",
    "$RECYCLE.BIN/0.mp4",
]
DEVICES += [
    "lost+found/0.mp4",
    "System Volume Information/0.mp4",
    "#recycle/0.mp4",
    ".thumbnails/0.jpg",
    "thumbnails/0.jpg",
]


@pytest.mark.parametrize("place", ["", "train/", "train/a/", "train/a/deep/"])
def test_folders_of_devices_are_neither_classes_nor_read_wherever_they_are(tmp_path, place):
    touch(tmp_path, *clips("train/a", "train/b", "test/a"), *(f"{place}{name}" for name in DEVICES))
    scan = scan_folder(tmp_path)
    assert [file.name for file in scan.files] == ["0.mp4"] * 3 and not scan.problems
    assert sum(scan.skip_counts.values()) == len(DEVICES)
    assert scan.skip_counts["device or system folder (@eaDir)"] == 1
    assert scan.notes[0].startswith("skipped: 10 × device or system folder (#recycle, $RECYCLE.BIN, ")


def test_what_is_passed_over_is_said_once_with_reasons(tmp_path):
    touch(tmp_path, *clips("a", "b", count=9), *(f"a/{n}.txt" for n in range(10)), "b/._0.mp4", "b/.DS_Store")
    touch(tmp_path, "b/Thumbs.db", "loose.mp4", "a/README", "labels.csv", ".notes/x.mp4")
    os.mkfifo(tmp_path / "a/pipe.mp4")
    wanted = (
        "skipped: 13 × not a video or image (.csv, .db, .txt, no ending), 3 × hidden, 1 × not a regular file, "
        "1 × outside any class folder"
    )
    manifest = Manifest.from_folder(tmp_path)
    assert len(manifest) == 18 and manifest.notes == (wanted,)
    found = read_rows(tmp_path, group_pattern=None, shares=(0.15, 0.2, 0)).findings
    beside = wanted.replace(", 1 × outside any class folder", "")  # to a check that is a file without a label
    assert [each.what for each in found if each.kind == "passed_over"] == [f"S{beside[1:]}."]


def test_nothing_is_said_where_all_was_read_and_of_files_that_finetune_wrote(tmp_path):
    touch(tmp_path, *clips("a", "b", count=9), ".clips.facts/facts.npz")
    assert Manifest.from_folder(tmp_path).notes == ()


def test_a_folder_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    touch(tmp_path, *clips("a", "a/closed", "b"))
    read = type(tmp_path).iterdir

    def iterdir(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return read(folder)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    assert scan_folder(tmp_path).skip_counts == {"folder that cannot be read": 1}
