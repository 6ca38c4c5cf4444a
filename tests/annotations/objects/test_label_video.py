"""Rows of labelled frames hold exactly their frame, and boxes are checked against the picture."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import object_files as files
import pytest
from grey import grey_frames
from hypothesis import given
from hypothesis import strategies as st

from finetune.annotations.objects.frame_numbers import VideoFrames, frame_intervals
from finetune.annotations.objects.frame_objects import FrameObjects, LabelledRange
from finetune.annotations.objects.label_video import Entries, Findings, label_video
from finetune.annotations.seconds import times_of_frames
from finetune.data.intervals import frames_in_interval, parse_intervals, seconds_text
from finetune.data.object_labels import LabelledObject, objects_text
from finetune.data.tables import read_table
from finetune.video.encode import RecordingWriter

SOURCE = Path("objects.json")


def labelled(*entries, frames=8, ranges=(), **options):
    """The rows and findings of entries (frame, objects) of a video of 64 × 48 pixels."""
    video = VideoFrames(Path("rec1.mp4"), np.arange(frames) / 25, (64, 48))
    found = Findings()
    given_entries = [
        (
            SOURCE,
            entry
            if isinstance(entry, FrameObjects)
            else FrameObjects("rec1", entry[0], entry[1], where=f"frame {entry[0]}"),
            number,
        )
        for entry in entries
        for number in [entry.frame if isinstance(entry, FrameObjects) else entry[0]]
    ]
    rows = label_video(video, Entries(given_entries, [(SOURCE, labels) for labels in ranges]), found, **options)
    return rows, found


def box(*corners, name="car", track=None):
    return LabelledObject(name, *corners, track)


@given(st.lists(st.integers(1, 10**7), max_size=60), st.integers(0, 10**6))
def test_an_interval_holds_exactly_its_frame(gaps, first):
    """Times in microseconds, at least two apart, as a manifest stores them."""
    times_N = np.cumsum([first, *(gap + 1 for gap in gaps)]) / 1e6
    for number, (start, end) in enumerate(frame_intervals(times_N).tolist()):
        written = (float(seconds_text(start)), float(seconds_text(end) or "inf"))
        assert frames_in_interval(times_N, *written) == (number, 1)


@pytest.mark.parametrize("kind", ["constant", "variable", "images"])
def test_rows_of_a_real_video_hold_exactly_their_frame(kind, tmp_path):
    if kind == "images":
        path = files.make_frames(tmp_path / "rec1", 7)
    elif kind == "constant":
        path = files.make_video(tmp_path / "rec1.mp4", 7)
    else:
        path = tmp_path / "rec1.mp4"
        writer = RecordingWriter(path, in_fragments=False)
        for frame_HWC, seconds in zip(grey_frames(7), (0, 0.04, 0.3, 0.31, 1.7, 1.75, 5.0), strict=True):
            writer.write(frame_HWC, seconds)
        writer.close()
    times_N = times_of_frames(path)
    assert len(times_N) == 7
    rows = label_video(
        VideoFrames(path, times_N, (32, 32)), Entries(ranges=[(SOURCE, LabelledRange("", range(7)))]), Findings()
    )
    table = tmp_path / "clips.csv"
    table.write_text(
        "path,start,end\n" + "".join(f"a,{seconds_text(row.start)},{seconds_text(row.end)}\n" for row in rows)
    )
    intervals_N2, errors = parse_intervals(read_table(table))
    assert not errors
    assert [frames_in_interval(times_N, *interval) for interval in intervals_N2.tolist()] == [(n, 1) for n in range(7)]


def test_boxes_partly_outside_are_cut_off_and_others_are_named():
    rows, found = labelled(
        (0, [box(-10, 40, 20, 20), box(60, 0, 4.2, 9)]),
        (1, [box(64, 0, 5, 5), box(3, 3, 0, 5), box(5, 5, -2, 5), box(1, 1, 2, 2)]),
    )
    assert objects_text(rows[0].objects) == "car:0,40,10,8;car:60,0,4,9"
    assert found.counts["cut"] == 1
    assert objects_text(rows[1].objects) == "car:1,1,2,2"
    assert found.problems[SOURCE] == [
        "frame 1: the box of car is outside the picture of 64 × 48 pixels: 64, 0, 5, 5",
        "frame 1: the box of car has no area: 3, 3, 0, 5 (left, top, width, height)",
        "frame 1: the box of car has no area: 5, 5, -2, 5 (left, top, width, height)",
    ]


def test_a_frame_with_an_object_of_an_impossible_class_is_left_out():
    rows, found = labelled((0, [box(1, 1, 2, 2, name="a;b")]), (1, [box(1, 1, 2, 2, name=" ")]), (2, []))
    assert [row.frame for row in rows] == [2]
    assert found.problems[SOURCE] == [
        "frame 0: “a;b” cannot be a class, as it has “;” or control characters",
        "frame 1: a box has no class",
    ]


def test_boxes_of_a_picture_of_another_size_are_scaled_and_of_another_shape_refused():
    objects = [box(8, 12, 16, 6)]
    rows, found = labelled(
        FrameObjects("rec1", 0, objects, size=(32, 24)),
        FrameObjects("rec1", 1, objects, size=(48, 64)),
        FrameObjects("rec1", 2, [box(0.25, 0.5, 0.5, 0.25)], in_fractions=True),
    )
    assert [(row.frame, objects_text(row.objects)) for row in rows] == [(0, "car:16,24,32,12"), (2, "car:16,24,32,12")]
    assert found.problems[SOURCE] == ["its pictures have 48 × 64 pixels, but rec1.mp4 has 64 × 48"]


def test_frames_that_the_video_lacks_are_named_with_their_number():
    rows, found = labelled((7, []), (8, []), (30, []))
    assert [row.frame for row in rows] == [7]
    assert found.problems[SOURCE] == ["2 frames, 8 to 30, do not exist: rec1.mp4 has frames 0 to 7"]
    entries = [FrameObjects("", number, [], image=f"{number}.jpg") for number in range(1, 9)]
    _, found = labelled(*entries)
    assert found.problems[SOURCE] == [
        "frame 8 does not exist: rec1.mp4 has frames 0 to 7; if the images are numbered from 1, use --first-frame 1"
    ]
    _, found = labelled(ranges=[LabelledRange("rec1", range(20))])
    assert found.problems[SOURCE] == ["labels frames up to 19, but rec1.mp4 has 8 frames"]


def test_frames_of_a_range_without_objects_are_labelled_as_empty():
    rows, _ = labelled((2, [box(1, 1, 2, 2)]), ranges=[LabelledRange("rec1", range(1, 5))])
    assert [(row.frame, len(row.objects)) for row in rows] == [(1, 0), (2, 1), (3, 0), (4, 0)]


@given(st.sets(st.integers(0, 99)), st.integers(1, 12))
def test_every_keeps_the_first_frame_and_those_far_enough_from_the_last_one_kept(numbers, every):
    rows, found = labelled(*((number, []) for number in numbers), frames=100, every=every)
    kept = [row.frame for row in rows]
    assert all(later - earlier >= every for earlier, later in pairwise(kept))
    assert all(any(0 <= number - other < every for other in kept) for number in numbers)
    assert (found.counts["labelled"], found.counts["kept"]) == (len(numbers), len(kept))


def test_repeated_boxes_count_once_and_one_identity_is_in_a_frame_once():
    rows, found = labelled(
        (0, [box(1, 1, 2, 2), box(1, 1, 2, 2)]), (1, [box(1, 1, 2, 2, track=3), box(9, 9, 2, 2, track=3)])
    )
    assert [objects_text(row.objects) for row in rows] == ["car:1,1,2,2", "car:1,1,2,2#3"]
    assert found.counts["repeated"] == 1
    assert found.problems[Path("rec1.mp4")] == ["frame 1: two objects have the identity 3"]


def test_objects_of_a_frame_in_two_files_are_joined_and_keep_their_own_identities():
    video = VideoFrames(Path("rec1.mp4"), np.arange(8) / 25, (64, 48))
    entries = Entries(
        [
            (Path("cars.json"), FrameObjects("", 0, [box(1, 1, 2, 2, track=3)]), 0),
            (Path("people.json"), FrameObjects("", 0, [box(9, 9, 2, 2, name="person", track=3)]), 0),
        ]
    )
    (row,) = label_video(video, entries, Findings())
    assert objects_text(row.objects) == "car:1,1,2,2#3;person:9,9,2,2#4"


def test_identities_that_jump_are_noted():
    far = [(0, [box(1, 1, 4, 4, track=3)]), (1, [box(50, 40, 4, 4, track=3)])]
    assert labelled(*far)[1].jumps == ["car #3 at frame 1 of rec1.mp4, 63 pixels"]
    assert labelled((0, [box(1, 1, 4, 4, track=3)]), (1, [box(7, 1, 4, 4, track=3)]))[1].jumps == []
    assert labelled((0, [box(1, 1, 4, 4, track=3)]), (30, [box(50, 40, 4, 4, track=3)]), frames=40)[1].jumps == []


def test_frames_without_a_time_of_their_own_are_named():
    video = VideoFrames(Path("rec1.mp4"), np.array([0.0, 0.04, 0.04, 0.08]), (64, 48))
    found = Findings()
    rows = label_video(video, Entries(ranges=[(SOURCE, LabelledRange("", range(4)))]), found)
    assert [row.frame for row in rows] == [0, 3]
    assert found.problems[Path("rec1.mp4")][0] == "frame 1 has no time of its own (0.04 s); copy the video anew"
