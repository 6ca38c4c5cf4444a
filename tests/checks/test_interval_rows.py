"""What `finetune check` finds in rows that are intervals of recordings."""

import csv
import json
import shutil

import numpy as np
import pytest
from scenes import make_scene, scene

from finetune.checks.check_data import audit, write_fixed
from finetune.checks.rows import read_rows
from finetune.data.manifest import Manifest
from finetune.recipe.tasks import Task
from finetune.video import probe_files
from finetune.video.encode import write_video
from finetune.video.probe_files import ClipOfFile, inspect_files


def record(path, seeds):
    """A recording of 0.4 s of each scene, at 25 frames a second."""
    write_video(path, np.concatenate([scene(seed, 10) for seed in seeds]), fps=25)


def check(folder, lines, header="path,start,end,label,split", **options):
    (folder / "clips.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    rows = read_rows(folder / "clips.csv", group_pattern=None, shares=(0.15, 0.2, 0), **options)
    clips = [ClipOfFile(path, rows.interval(row)) for row, path in enumerate(rows.paths)]
    result, left = audit(rows, inspect_files(clips, seconds=60))
    json.dumps(result)
    return rows, {finding["kind"]: finding for finding in reversed(result["findings"])}, result, left


CLOCK_ADVICE = "write 62.5 for 00:01:02.5, or convert the file with `finetune data import`"


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        record(tmp_path / f"{number}.mp4", range(5 * number, 5 * number + 5))
    return tmp_path


GOOD = [
    f"{number}.mp4,{0.4 * place:.1f},{0.4 * place + 0.4:.1f},{'ab'[place % 2]},{split}"
    for number, split in enumerate(("train", "val", "test"))
    for place in range(5)
]


def test_good_intervals_have_the_facts_and_pictures_of_their_part(folder):
    _, found, result, left = check(folder, GOOD)
    assert {kind for kind in found if found[kind]["severity"] == "mend"} == set() and len(left) == 15
    assert not {"exact_copies", "near_copies", "overlap", "late_end", "no_groups", "leak"} & set(found)
    assert (result["num_files"], result["num_clips"], result["num_groups"]) == (3, 15, 3)
    third = result["files"][2]
    assert third["file"] == "0.mp4 (0.8–1.2 s)" and (third["start"], third["end"]) == (0.8, 1.2)
    assert (third["num_frames"], third["duration_seconds"]) == (10, 0.4)
    of_part = inspect_files([ClipOfFile(folder / "0.mp4", (0.8, 1.2)), make_scene(folder / "x.mp4", 2, 10)], seconds=60)
    assert np.abs(of_part[0].pictures_5SS[::2].astype(int) - of_part[1].pictures_5SS[::2]).max() < 12
    assert of_part[0].file_seconds == 2


def test_each_file_is_examined_once(folder, monkeypatch):
    monkeypatch.setattr(probe_files, "map_in_processes", lambda function, paths, _: list(map(function, paths)))
    scanned, scan = [], probe_files.scan
    monkeypatch.setattr(probe_files, "scan", lambda path: scanned.append(path.name) or scan(path))
    check(folder, GOOD)
    assert scanned == ["0.mp4", "1.mp4", "2.mp4"]


def test_intervals_outside_their_file_and_times_that_are_none_are_named_with_what_is_wrong(folder):
    wrong = [
        "0.mp4,3,4,a,train",
        "1.mp4,x,,a,val",
        "2.mp4,1,0.5,b,test",
        "2.mp4,00:00:01,,b,test",
        "0.mp4,1.6,2.6,a,train",
    ]
    _, found, result, left = check(folder, [*GOOD, *wrong])
    assert found["unreadable"]["what"] == "4 of 20 clips cannot be read."
    assert {(bad["file"], bad["reason"]) for bad in result["unreadable"]} == {
        ("0.mp4 (3–4 s)", "has no frame in 3–4 s; it lasts 2.00 s"),
        (
            "1.mp4",
            "line 18: start 'x' is not a time in seconds, such as 12.5; rename the column if it means something else",
        ),
        ("2.mp4", "line 19: the interval ends before it starts: start 1, end 0.5"),
        ("2.mp4", f"line 20: start '00:00:01' is not in seconds; {CLOCK_ADVICE}"),
    }
    assert found["late_end"]["severity"] == "warning"
    assert (
        found["late_end"]["what"] == "1 interval ends after the end of the file: “0.mp4” 1.6–2.6 s in a file of 2.00 s."
    )
    assert left == [*range(15), 19]


def test_overlaps_under_different_labels_are_a_warning_with_the_times(folder):
    lines = [*GOOD, "0.mp4,0.5,0.7,a,train", "0.mp4,0.81,1.19,a,train", "1.mp4,0.39,0.8,b,val"]
    _, found, _, left = check(folder, lines)
    assert found["overlap"]["severity"] == "warning" and len(left) == 18
    assert found["overlap"]["what"] == (
        "1 pair of intervals overlaps under different labels: “0.mp4” 0.4–0.8 s (b) and “0.mp4” 0.5–0.7 s (a)."
    )
    multilabel = {"what": Task(kind="multilabel")}
    header = "path,start,end,what,split"
    assert "overlap" not in check(folder, lines, header, tasks=multilabel)[1]
    assert check(folder, lines, header, tasks={"what": Task(kind="classify")})[1]["overlap"]["what"].startswith(
        "tasks.what: 1"
    )


def test_one_interval_under_two_labels_is_an_error(folder):
    _, found, _, left = check(folder, [*GOOD, "0.mp4,0.4,0.8,a,train"])
    assert found["contradiction"]["what"].startswith("2 clips are exact duplicates of each other with different labels")
    assert "overlap" not in found and left == [0, *range(2, 15)]


def test_a_recording_in_two_splits_is_a_leak_also_under_two_names(folder):
    lines = ["0.mp4,0,0.4,a,train", "0.mp4,0.4,0.8,b,test", "1.mp4,,,b,train", "2.mp4,,,a,train"]
    found = check(folder, lines)[1]
    assert found["leak"]["severity"] == "mend" and "near_copies" not in found
    assert found["leak"]["what"].startswith("1 recording is in more than one split: “0.mp4” in train and test")
    shutil.copy(folder / "0.mp4", folder / "copy.mp4")
    lines[1] = lines[1].replace("0.mp4", "copy.mp4")
    assert check(folder, lines)[1]["leak"]["what"].startswith("1 recording is in more than one split")
    unsplit = [line.rpartition(",")[0] + "," for line in lines]
    found = check(folder, [*unsplit, *(line.rpartition(",")[0] + "," for line in GOOD[5:])])[1]
    assert found["leak"]["what"] == "Copies of 1 recording may get into different splits: “0.mp4” = “copy.mp4”."


def test_rows_without_a_split_are_divided_as_training_divides_them_by_recording(folder):
    for number in range(3, 9):
        record(folder / f"{number}.mp4", range(5 * number, 5 * number + 5))
    lines = [f"{n % 9}.mp4,{0.2 * (n // 9):.1f},{0.2 * (n // 9) + 0.2:.1f},{'ab'[n % 2]}," for n in range(27)]
    rows, _, result, _ = check(folder, lines)
    manifest = Manifest.from_csv(folder / "clips.csv", val=0.15, test=0.2)
    assert rows.splits == manifest.splits.tolist() and result["splits"] == "by chance"
    assert rows.groups == manifest.groups.tolist() == [f"{n % 9}.mp4" for n in range(27)]
    assert manifest.intervals.tolist() == rows.intervals.tolist()


def test_the_fixed_manifest_has_start_and_end(folder):
    lines = ["0.mp4,0.4,,b,train", "1.mp4,x,,a,val", "2.mp4,,0.5,b,test", "2.mp4,0.123456,1,a,test"]
    rows, _, _, left = check(folder, lines)
    write_fixed(folder / "fixed.csv", rows, left)
    with (folder / "fixed.csv").open() as file:
        fixed = list(csv.DictReader(file))
    assert [(row["start"], row["end"], row["label"]) for row in fixed] == [
        ("0.4", "", "b"),
        ("0", "0.5", "b"),
        ("0.123456", "1", "a"),
    ]
