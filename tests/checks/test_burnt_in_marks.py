"""Marks drawn into the clips of two of six classes are reported with their place and classes, and nothing else."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from finetune.checks.burnt_in_finding import mark_findings
from finetune.checks.burnt_in_marks import MAX_CLIPS, MAX_PER_CLASS, MIN_PER_CLASS, find_marks, rows_to_compare
from finetune.checks.check_data import audit
from finetune.checks.rows import Rows, read_rows
from finetune.data.class_codes import class_task_labels
from finetune.video.encode import encode_jpeg, write_video
from finetune.video.probe_files import ClipOfFile, FileInspection, inspect_files

SIX = ("climb", "dive", "fence", "jump", "row", "run")
MARKED = ("jump", "run")
GROUPS = 6
WHITE, RED, DARK = (255, 255, 255), (200, 30, 40), (20, 20, 60)


def logo(frame, random):
    width = frame.shape[1]
    cv2.rectangle(frame, (width - 36, 8), (width - 8, 24), RED, -1)
    cv2.putText(frame, "TV", (width - 33, 22), 0, 0.5, WHITE, 1, cv2.LINE_AA)


def watermark(frame, random):
    over = frame.copy()
    cv2.putText(over, "stock", (50, 75), 0, 1.0, WHITE, 2, cv2.LINE_AA)
    frame[:] = cv2.addWeighted(over, 0.5, frame, 0.5, 0)


def clock(frame, random):
    text = f"{random.integers(10, 24)}:{random.integers(10, 60)}"
    cv2.putText(frame, text, (6, 20), 0, 0.5, WHITE, 1, cv2.LINE_AA)


def scoreboard(frame, random):
    cv2.rectangle(frame, (8, 6), (64, 22), DARK, -1)
    cv2.putText(frame, f"A {random.integers(10)}:{random.integers(10)} B", (10, 19), 0, 0.4, WHITE, 1, cv2.LINE_AA)


def banner(frame, random):
    frame[100:114] = DARK
    cv2.putText(frame, f"news {random.integers(10**6)}", (10, 112), 0, 0.4, WHITE, 1, cv2.LINE_AA)


def bars(frame, random):
    frame[:12] = frame[-12:] = 0


def border(frame, random):
    frame[:5] = frame[-5:] = frame[:, :5] = frame[:, -5:] = 255


KINDS = {
    logo: ["upper right corner"],
    watermark: ["middle"],
    clock: ["upper left corner"],
    scoreboard: ["upper left corner"],
    banner: ["along the bottom"],
    bars: ["along the top", "along the bottom"],
    border: ["around the picture"],
}


@cache
def scene(seed, height=120, width=160):
    """Three frames of blotches of random grey, larger and smaller ones, which move by half a picture; uint8 THWC."""
    random = np.random.default_rng(seed)
    whole = sum(
        cv2.resize(
            random.normal(0, 30, (2 * height // cell, 2 * width // cell)), (2 * width, 2 * height), interpolation=2
        )
        for cell in (8, 20, 40)
    )
    moved = [whole[shift : shift + height, shift : shift + width] for shift in (0, height // 3, height // 2)]
    return np.repeat(np.clip(np.stack(moved) + 120, 0, 255).astype(np.uint8)[..., None], 3, 3)


def look_of(frames_THWC):
    frames = frames_THWC.transpose(0, 3, 1, 2)
    info = SimpleNamespace(height=frames.shape[2], width=frames.shape[3])
    return FileInspection(info, 0, None, encode_jpeg(frames[1]), np.ascontiguousarray(frames[:, 0]))


def data_set(
    draw=None, *, marked=MARKED, groups=GROUPS, classes=SIX, per_take=1, grouped=True, seed=0, share=1.0, **size
):
    """(rows, inspections): each group shows each class; clips of the marked classes have a mark."""
    labels, names, looks = [], [], []
    random = np.random.default_rng(seed)
    for label in classes:
        for group in range(groups):
            for _ in range(per_take):
                frames = scene(1000 * seed + len(looks), **size).copy()
                if draw is not None and label in marked and random.random() < share:
                    for frame in frames:
                        draw(frame, random)
                labels.append(label)
                names.append(f"person {group}" if grouped else "")
                looks.append(look_of(frames))
    return rows_of(labels, names), looks


def rows_of(labels, groups):
    paths = [Path(f"clips/{number}.mp4") for number in range(len(labels))]
    classes, codes = np.unique(labels, return_inverse=True)
    by_task = {"label": class_task_labels(tuple(classes.tolist()), codes, None)}
    return Rows(Path("clips.csv"), paths, labels, [""] * len(labels), groups, True, [], labels_by_task=by_task)


@pytest.mark.parametrize("draw", KINDS, ids=lambda draw: draw.__name__)
def test_a_mark_in_two_of_six_classes_is_named_with_its_place_and_its_classes(draw):
    (mark,) = find_marks(*data_set(draw))
    assert mark.kind == "mark" and mark.classes == MARKED
    assert sorted(place.where for place in mark.places) == sorted(KINDS[draw])
    assert mark.found >= 0.9 and mark.mistaken <= 0.1
    assert mark.groups == GROUPS and mark.clips == 2 * GROUPS and mark.grouped
    assert mark.mean_jpeg.startswith(b"\xff\xd8")


def test_the_box_and_the_finding_say_where_the_mark_is_and_how_well_it_tells_the_classes():
    (mark,) = marks = find_marks(*data_set(logo))
    (place,) = mark.places
    assert place.box == pytest.approx((124 / 160, 8 / 120, 28 / 160, 16 / 120), abs=0.03)
    (finding,) = mark_findings(marks)
    assert finding.severity == "warning"
    assert "a mark in clips of “jump”, “run”: upper right corner (1" in finding.what
    assert "in unseen groups with a balanced accuracy of 100\u00a0% (50\u00a0% by chance)" in finding.what
    assert "recall 100\u00a0%, false positive rate 0\u00a0%" in finding.what


@pytest.mark.parametrize("grouped", [True, False])
def test_clips_without_a_mark_and_clips_that_all_bear_one_raise_no_alarm(grouped):
    for seed in (1, 2, 3):
        assert find_marks(*data_set(seed=seed, grouped=grouped)) == []
    assert find_marks(*data_set(logo, marked=SIX, grouped=grouped)) == []


def test_a_mark_that_is_tied_to_groups_and_not_to_classes_raises_no_alarm():
    """Three of six people were filmed with a clock, in all classes."""
    rows, looks = data_set(seed=4)
    random = np.random.default_rng(0)
    for number in range(len(looks)):
        if rows.groups[number] in {"person 0", "person 1", "person 2"}:
            frames = scene(4000 + number).copy()
            for frame in frames:
                clock(frame, random)
            looks[number] = look_of(frames)
    assert find_marks(rows, looks) == []


def test_without_groups_each_clip_counts_as_one_and_the_finding_says_so():
    (mark,) = marks = find_marks(*data_set(logo, grouped=False))
    assert mark.classes == MARKED and not mark.grouped
    assert "in unseen clips (there are no groups) with" in mark_findings(marks)[0].what


def test_a_mark_in_most_of_the_clips_of_a_class_is_named():
    (mark,) = find_marks(*data_set(scoreboard, marked=("row",), groups=12, share=0.8, seed=7))
    assert mark.classes == ("row",) and 0.6 <= mark.found < 1 and mark.mistaken <= 0.1


def test_of_several_tasks_the_one_whose_classes_a_mark_tells_is_named():
    rows, looks = data_set(logo)
    codes = np.arange(len(rows)) % 2
    rows = replace(
        rows,
        tasks=dict.fromkeys(("pace", "sport")),
        labels_by_task={
            "pace": class_task_labels(("fast", "slow"), codes, None),
            "sport": rows.labels_by_task["label"],
        },
    )
    (mark,) = marks = find_marks(rows, looks)
    assert mark.classes == MARKED
    assert mark_findings(marks)[0].what.startswith("tasks.sport: Shortcut: a mark in clips of “jump”")


def test_marks_of_their_own_in_two_classes_are_two():
    rows, looks = data_set(logo, marked=("jump",))
    other = data_set(banner, marked=("run",))[1]
    looks = [two if label == "run" else one for label, one, two in zip(rows.labels, looks, other, strict=True)]
    assert {(mark.classes, mark.places[0].where) for mark in find_marks(rows, looks)} == {
        (("jump",), "upper right corner"),
        (("run",), "along the bottom"),
    }


def test_four_classes_of_six_and_one_of_two_can_bear_a_mark():
    (mark,) = find_marks(*data_set(logo, marked=SIX[:4]))
    assert mark.classes == SIX[:4]
    (mark,) = find_marks(*data_set(logo, classes=SIX[2:4], groups=5))
    assert mark.classes == ("jump",)


@pytest.mark.parametrize("groups", [3, 2])
def test_three_groups_are_enough_and_two_are_not(groups):
    marks = find_marks(*data_set(logo, groups=groups))
    assert [mark.classes for mark in marks] == [MARKED] * (groups == 3)


def test_a_mark_that_is_darker_than_some_pictures_and_lighter_than_others_is_named():
    rows, looks = data_set()
    for number, label in enumerate(rows.labels):
        frames = scene(number) // 3 + (20, 150)[number % 2]
        for frame in frames if label in MARKED else []:
            cv2.circle(frame, (136, 24), 14, (120, 120, 120), 4, cv2.LINE_AA)
        looks[number] = look_of(frames)
    (mark,) = find_marks(rows, looks)
    assert mark.classes == MARKED and mark.places[0].where == "upper right corner"


def test_a_mark_at_a_fixed_distance_from_a_corner_is_found_in_clips_of_many_sizes():
    sizes = [(120, 160), (160, 120), (176, 120), (120, 176), (144, 144), (100, 176)]
    labels, groups, looks = [], [], []
    for label in SIX:
        for group, (height, width) in enumerate(sizes):
            frames = scene(100 * SIX.index(label) + group, height, width).copy()
            for frame in frames if label in MARKED else []:
                logo(frame, None)
            labels.append(label)
            groups.append(f"g{group}")
            looks.append(look_of(frames))
    (mark,) = find_marks(rows_of(labels, groups), looks)
    assert mark.classes == MARKED and mark.places[0].where == "upper right corner"
    assert mark.anchor.startswith("upper right corner, ") and mark.found == 1


def test_a_class_that_one_still_camera_filmed_is_not_said_to_bear_a_mark():
    rows, looks = data_set(seed=6)
    for number, label in enumerate(rows.labels):
        if label == "row":  # the same place for all groups, and something that moves
            frames = np.repeat(scene(77)[:1], 3, 0)
            for step, frame in enumerate(frames):
                frame[40:80, 30 + 30 * step : 60 + 30 * step] = scene(number + 500)[0, :40, :30]
            looks[number] = look_of(frames)
    (mark,) = marks = find_marks(rows, looks)
    assert mark.kind == "background" and mark.classes == ("row",)
    assert "the static background, or a mark across it, is the same in clips of “row”" in mark_findings(marks)[0].what


def test_a_bounded_number_of_clips_of_each_class_is_compared_spread_over_its_groups():
    rows = rows_of(["a"] * 5000 + ["b"] * 10, [f"g{number // 100}" for number in range(5000)] + list("abcdefghij"))
    chosen = rows_to_compare(rows)
    assert len(chosen) == MAX_PER_CLASS + 10
    assert len({rows.groups[row] for row in chosen if rows.labels[row] == "a"}) == 50
    many = rows_of([f"class {number % 900:03}" for number in range(9000)], [""] * 9000)
    assert len(rows_to_compare(many)) == 900 * MIN_PER_CLASS
    half = rows_of([f"class {number % 100:02}" for number in range(9000)], [""] * 9000)
    assert len(rows_to_compare(half)) == MAX_CLIPS
    assert rows_to_compare(rows_of(["a"] * 9, [""] * 9)) == []
    assert rows_to_compare(rows_of(["a", "b"] * 9, ["x", "y"] * 9)) == []


@pytest.mark.slow
def test_files_are_read_compared_and_the_result_goes_into_the_audit(tmp_path):
    for number, label in enumerate(("jump", "run", "walk")):
        for group in range(5):
            frames = scene(100 * number + group).copy()
            for frame in frames if label == "run" else []:
                logo(frame, None)
            path = tmp_path / label / f"person{group}.mp4"
            path.parent.mkdir(exist_ok=True)
            write_video(path, frames)
    rows = read_rows(tmp_path, group_pattern=r"person(\d)", shares=(0.2, 0.2, 0))
    compared = rows_to_compare(rows)
    looks = inspect_files(
        [ClipOfFile(path, keep_frames=row in compared) for row, path in enumerate(rows.paths)], seconds=60
    )
    assert looks[0].grey_3HW.shape == (3, 120, 160)
    marks = find_marks(rows, looks)
    result, _ = audit(rows, looks, marks)
    (shown,) = result["marks"]
    assert shown["classes"] == ("run",) and shown["example"].startswith("run/person")
    assert shown["balanced_accuracy"] == 1 and shown["places"][0]["where"] == "upper right corner"
    assert "mark" in [finding["kind"] for finding in result["findings"]]
