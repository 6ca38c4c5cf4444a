"""Planted problems are each found and named; in data without problems none is found."""

import json
import shutil

import pytest
from scenes import make_bad_files, make_scene

from finetune.checks.check_data import audit, write_fixed
from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.recipe.tasks import Task
from finetune.video.probe_files import inspect_files


def read(source, pattern=None, tasks=None):
    return read_rows(source, group_pattern=pattern, shares=(0.15, 0.2, 0), tasks=tasks)


def look_into(source, pattern=None, tasks=None):
    """(rows, the most severe finding of each kind without `no_groups`, all results, rows that are left)."""
    rows = read(source, pattern, tasks)
    result, left = audit(rows, inspect_files(rows.paths, seconds=60))
    json.dumps(result)
    found = {finding["kind"]: finding for finding in reversed(result["findings"])}
    assert ("no_groups" in found) == (rows.labelled and not any(rows.groups))
    found.pop("no_groups", None)
    return rows, found, result, left


@pytest.fixture
def folder(tmp_path):
    """`<split>/<class>/*` without problems: 6 training, 2 validation and 2 test clips of each class."""
    root, seed = tmp_path / "data", 0
    for split, number in (("train", 6), ("val", 2), ("test", 2)):
        for name in ("jumps", "waves"):
            for each in range(number):
                make_scene(root / split / name / f"{each}.mp4", seed)
                seed += 1
    return root


@pytest.mark.slow
def test_in_data_without_faults_none_is_found(folder):
    rows, found, result, left = look_into(folder)
    assert found == {} and left == list(range(20)) and len(rows) == 20
    assert result["classes"][0] == {"class": "jumps", "train": 6, "val": 2, "test": 2, "readable": 10, "unreadable": 0}
    assert result["files"][0]["num_frames"] == 6 and result["copies"] == [] and result["unreadable"] == []
    spread = {each["fact"]: each for each in result["spread"]}
    assert spread["shape"] == {
        "fact": "shape", "unit": "width ÷ height", "least": 1.33333, "median": 1.33333, "most": 1.33333, "distinct": 1
    }  # fmt: skip
    assert spread["duration"]["median"] == 0.24


def test_that_no_group_is_known_is_the_first_warning(folder):
    shutil.rmtree(folder / "val/waves")
    result = audit(rows := read(folder), inspect_files(rows.paths, seconds=60))[0]
    first, *others = (finding for finding in result["findings"] if finding["severity"] == "warning")
    assert first["kind"] == "no_groups" and others
    assert first["what"].startswith("There are no groups, so clips of one person or one rec")
    assert "add a column group to the manifest, or set data.group_pattern" in first["todo"]
    result = audit(rows := read(folder, r"(\w+/\w+/\d)"), inspect_files(rows.paths, seconds=60))[0]
    assert "no_groups" not in {finding["kind"] for finding in result["findings"]}


TASKS = {"move": Task(kind="classify"), "place": Task(kind="multilabel"), "skill": Task(kind="ordinal")}


def test_what_is_asked_of_the_classes_of_the_first_task_is_asked_of_all(tmp_path):
    lines = ["path,split,group,move,place,skill"]
    for number in range(26):
        split = "train" if number < 20 else "val" if number < 23 else "test"
        make_scene(tmp_path / f"{number}.mp4", number)
        place = "roof" if number == 25 else "in;out" if number % 2 else "in"
        lines.append(f"{number}.mp4,{split},g{number},{'ab'[number % 2]},{place},{3 if number < 2 else number % 2 + 1}")
    shutil.copy(tmp_path / "7.mp4", tmp_path / "9.mp4")
    lines[10] = lines[10].replace("in;out", "in")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"tasks.place: test has roof, which is not in train: no model can predict it"):
        Manifest.from_csv(tmp_path / "clips.csv", tasks=TASKS)
    rows, found, result, left = look_into(tmp_path / "clips.csv", tasks=TASKS)
    assert found["untaught"]["what"].startswith("tasks.place: train has no readable file of “roof”")
    assert found["untaught"]["files"] == ["25.mp4"]
    assert found["contradiction"]["what"].startswith("tasks.place: 2 files are exact duplicates of each other")
    assert found["rare"]["what"] == "tasks.skill: Classes with fewer than 5 training files: “3”."
    assert found["absent"]["what"].startswith("tasks.skill: val has no readable file of “3”")
    assert [each["task"] for each in result["classes"]] == ["move"] * 2 + ["place"] * 3 + ["skill"] * 3
    assert result["classes"][4] == {
        "task": "place", "class": "roof", "train": 0, "val": 0, "test": 1, "readable": 1, "unreadable": 0
    }  # fmt: skip
    assert [rows.paths[row].name for row in range(26) if row not in left] == ["7.mp4", "9.mp4"]


def test_bad_files_are_named_with_their_reasons(folder):
    reasons = make_bad_files(folder / "train/waves")
    _, found, result, left = look_into(folder)
    assert found["unreadable"]["what"] == "5 of 25 files cannot be read."
    assert {each["file"] for each in result["unreadable"]} == {f"train/waves/{name}" for name in reasons}
    for each in result["unreadable"]:
        assert reasons[each["file"].removeprefix("train/waves/")] in each["reason"]
    assert len(left) == 20


def test_a_copy_in_another_split_is_found_and_the_one_that_trains_has_to_go(folder):
    shutil.copy(folder / "test/jumps/0.mp4", folder / "train/jumps/again.mp4")
    rows, found, _, left = look_into(folder)
    assert found["exact_copies"]["severity"] == "mend"
    assert found["exact_copies"]["what"].startswith("2 files are exact duplicates; they are in different splits")
    assert sorted(found["exact_copies"]["files"]) == ["test/jumps/0.mp4", "train/jumps/again.mp4"]
    assert [rows.paths[row].name for row in range(len(rows)) if row not in left] == ["again.mp4"]


def test_a_copy_within_a_split_is_only_a_note(folder):
    shutil.copy(folder / "train/jumps/0.mp4", folder / "train/jumps/again.mp4")
    rows, found, _, left = look_into(folder)
    assert {kind: finding["severity"] for kind, finding in found.items()} == {"exact_copies": "note"}
    assert len(left) == len(rows)


def test_a_mirrored_and_encoded_copy_in_another_split_is_found(folder):
    make_scene(folder / "val/waves/turned.avi", 7, mirrored=True)
    _, found, result, left = look_into(folder)
    assert list(found) == ["near_copies"]
    assert found["near_copies"]["what"].startswith(
        "1 pair of files shows the same video (1 mirrored); they are in different splits"
    )
    (copies,) = result["copies"]
    assert copies["mirrored"] and copies["across"] and not copies["exact"]
    assert copies["files"] == ["train/waves/1.mp4", "val/waves/turned.avi"]
    assert result["files"][[each["file"] for each in result["files"]].index("train/waves/1.mp4")]["label"] == "waves"
    assert len(left) == 20


def test_the_same_video_under_two_labels_is_found_even_within_a_split(folder):
    shutil.copy(folder / "train/jumps/0.mp4", folder / "train/waves/again.mp4")
    rows, found, _, left = look_into(folder)
    assert found["contradiction"]["severity"] == "mend"
    assert len(left) == len(rows) - 2


def test_classes_that_a_split_lacks_are_found(folder):
    make_scene(folder / "test/runs/0.mp4", 100)
    shutil.rmtree(folder / "val/waves")
    _, found, _, _ = look_into(folder)
    assert found["untaught"]["what"] == "train has no readable file of “runs”: a model cannot learn to predict it."
    assert found["untaught"]["severity"] == "mend"
    assert found["absent"]["what"] == "val has no readable file of “waves”: accuracy on them cannot be measured there."
    assert found["absent"]["severity"] == "warning"


def test_a_class_whose_training_files_are_all_unreadable_is_one_that_training_lacks(folder):
    for path in (folder / "train/waves").iterdir():
        path.write_bytes(b"")
    _, found, result, _ = look_into(folder)
    assert "train has no readable file of “waves”" in found["untaught"]["what"]
    assert result["classes"][1]["unreadable"] == 6


def test_uneven_and_rare_classes_are_warnings(folder):
    for number in range(14):
        make_scene(folder / f"train/jumps/more{number}.mp4", 200 + number)
    for number in range(2, 6):
        (folder / f"train/waves/{number}.mp4").unlink()
    _, found, _, _ = look_into(folder)
    assert found["imbalance"]["what"] == "Classes are imbalanced: “jumps” has 20 training files, “waves” 2."
    assert found["rare"]["what"] == "Classes with fewer than 5 training files: “waves”."
    assert {finding["severity"] for finding in found.values()} == {"warning"}


def table_of(folder, change=lambda line: line):
    lines = [
        [
            path.relative_to(folder),
            path.parent.name,
            path.parent.parent.name,
            f"day {number % 5} {path.parent.parent.name}",
        ]
        for number, path in enumerate(sorted(folder.rglob("*.mp4")))
    ]
    text = "".join(f"{','.join(map(str, change(line)))}\n" for line in [["path", "label", "split", "group"], *lines])
    (folder / "clips.csv").write_text(text)
    return folder / "clips.csv"


def test_a_group_on_both_sides_of_a_border_is_found(folder):
    assert "leak" not in look_into(table_of(folder))[1]
    _, found, _, _ = look_into(table_of(folder, lambda line: [*line[:3], line[3].split(" train")[0].split(" test")[0]]))
    assert found["leak"]["severity"] == "mend"
    assert "groups are in more than one split: “day 0” in train and test" in found["leak"]["what"]


def test_everything_is_said_at_once(folder):
    shutil.copy(folder / "test/jumps/0.mp4", folder / "train/jumps/again.mp4")
    (folder / "val/jumps/0.mp4").write_bytes(b"")
    make_scene(folder / "test/runs/0.mp4", 100)
    table = table_of(folder, lambda line: [*line[:3], "all"] if line[0] != "path" else line)
    with pytest.raises(DataError):
        Manifest.from_csv(table)
    assert set(look_into(table)[1]) == {"unreadable", "exact_copies", "untaught", "leak"}


def test_without_splits_copies_that_chance_can_part_are_found_and_one_group_mends_them(tmp_path):
    for number in range(24):
        make_scene(tmp_path / "data" / "ab"[number % 2] / f"{number:02}.mp4", number)
    shutil.copy(tmp_path / "data/a/00.mp4", tmp_path / "data/a/00 again.mp4")
    rows, found, _, left = look_into(tmp_path / "data")
    assert "may get into different splits, as none is given" in found["exact_copies"]["what"]
    assert len(left) == len(rows) - 1
    _, found, _, left = look_into(tmp_path / "data", r"(\d\d)")
    assert found["exact_copies"]["severity"] == "note"
    assert len(left) == len(rows)


def test_rows_of_one_file_go_together_and_only_one_label_can_be_right(tmp_path):
    lines = ["path,label"]
    for number in range(24):
        make_scene(tmp_path / f"{number}.mp4", number)
        lines.append(f"{number}.mp4,{'ab'[number % 2]}")
    (tmp_path / "clips.csv").write_text("\n".join([*lines, "./0.mp4,a"]))
    found = look_into(tmp_path / "clips.csv")[1]
    assert found["exact_copies"]["severity"] == "note" and "contradiction" not in found
    (tmp_path / "clips.csv").write_text("\n".join([*lines, "./0.mp4,b"]))
    _, found, _, left = look_into(tmp_path / "clips.csv")
    assert found["contradiction"]["severity"] == "mend" and len(left) == 23
    with pytest.raises(DataError, match="one file has two labels"):
        Manifest.from_csv(tmp_path / "clips.csv")


def test_what_is_mended_has_nothing_left_to_mend_and_training_takes_it(folder, tmp_path):
    make_bad_files(folder / "train/waves")
    shutil.copy(folder / "test/jumps/0.mp4", folder / "train/jumps/again.mp4")
    shutil.copy(folder / "train/jumps/3.mp4", folder / "train/waves/twice.mp4")
    make_scene(folder / "val/waves/turned.mp4", 7, mirrored=True)
    make_scene(folder / "train/jumps/encoded anew.avi", 12)
    rows, found, _, left = look_into(folder)
    assert {"unreadable", "exact_copies", "near_copies", "contradiction"} <= set(found)
    write_fixed(tmp_path / "mended.csv", rows, left)
    _, found, _, _ = look_into(tmp_path / "mended.csv")
    assert not [finding for finding in found.values() if finding["severity"] == "mend"]
    manifest = Manifest.from_csv(tmp_path / "mended.csv")
    assert [manifest.path(row) for row in range(len(manifest))] == [rows.paths[row] for row in left]
    with pytest.raises(DataError, match="is the manifest that is checked"):
        write_fixed(
            tmp_path / "mended.csv", read_rows(tmp_path / "mended.csv", group_pattern=None, shares=(0, 0, 0)), []
        )


def test_a_shape_that_gives_a_class_away_is_told_and_the_same_shape_for_all_is_not(tmp_path):
    for number in range(40):
        size = {"height": 64, "width": 48} if number % 2 else {"height": 48, "width": 64}
        for root, shape in (("told", size), ("untold", {})):
            make_scene(tmp_path / root / "ab"[number % 2] / f"{number}.mp4", number, **shape)
    found = look_into(tmp_path / "told")[1]
    assert (
        "the shape of a clip alone predicts the class with a balanced accuracy of 100\u00a0% (50\u00a0% by chance)"
        in found["shortcut"]["what"]
    )
    assert "“b” (recall 100\u00a0%, portrait: width ÷ height 0.75, others 1.33)" in found["shortcut"]["what"]
    assert look_into(tmp_path / "untold")[1] == {}
