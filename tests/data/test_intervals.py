"""The columns start and end of a manifest: what they say, what is refused, and that rows of one file stay together."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.intervals import clip_name, frames_in_interval, interval_text, seconds_text
from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.recipe.tasks import Task


def read(folder, text, **options):
    (folder / "clips.csv").write_text(text, encoding="utf-8")
    return Manifest.from_csv(folder / "clips.csv", packed=True, **options)


def test_rows_may_be_intervals_of_a_file_or_whole_files(tmp_path):
    manifest = read(tmp_path, "path,start,end,label\na.mp4,1.5,2,x\na.mp4,2.25,,y\nb.mp4,,3,x\nc.mp4,,,y\n", whole=True)
    assert manifest.intervals.tolist() == [[1.5, 2], [2.25, math.inf], [0, 3], [0, math.inf]]
    names = [manifest.clip_name(row).removeprefix(f"{tmp_path}/") for row in range(4)]
    assert names == ["a.mp4 (1.5–2 s)", "a.mp4 (2.25 s–end)", "b.mp4 (0–3 s)", "c.mp4"]
    assert manifest.without([0, 2]).intervals.tolist() == [[2.25, math.inf], [0, math.inf]]


def test_empty_columns_are_the_same_as_none(tmp_path):
    assert read(tmp_path, "path,start,end,label\na,,,x\nb,,,y\n", whole=True).intervals is None


def test_intervals_are_written_and_read_again(tmp_path):
    times = [(0.1, 0.30000000000000004), (3600.123456, 7200), (12, math.inf)]
    rows = "".join(
        f"a,{start!r},{'' if math.isinf(end) else repr(end)},{'xyz'[n]}\n" for n, (start, end) in enumerate(times)
    )
    manifest = read(tmp_path, f"path,start,end,label\n{rows}", whole=True)
    manifest.to_csv(tmp_path / "again.csv")
    again = Manifest.from_csv(tmp_path / "again.csv", packed=True)
    np.testing.assert_array_equal(again.intervals, manifest.intervals)
    np.testing.assert_array_equal(again.intervals, np.round(times, 6))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("00:01:02,5", "start '00:01:02' is not in seconds; write 62.5 for 00:01:02.5, or convert the file with"),
        ("x,5", "start 'x' is not a time in seconds, such as 12.5; rename the column if it means something else"),
        ("-1,5", "start '-1' is not a time in seconds"),
        ("nan,5", "start 'nan' is not a time in seconds"),
        ("1e3,", "start '1e3' is not a time in seconds"),
        ("5,inf", "end 'inf' is not a time in seconds"),
        ("5,2", "the interval ends before it starts: start 5, end 2"),
        ("5,5", "the interval is empty: start 5, end 5"),
        (",0", "the interval is empty: start 0, end 0"),
    ],
)
def test_what_is_no_interval_is_refused_with_its_line(tmp_path, cells, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, f"path,start,end,label\na,1,2,x\nb,{cells},y\nc,7,6,x\n", whole=True)
    first, second = str(error.value).splitlines()[:2]
    assert first.startswith(f"{tmp_path / 'clips.csv'}: line 3: {message}") or second.startswith(
        f"{tmp_path / 'clips.csv'}: line 3: {message}"
    )
    assert "line 4: the interval ends before it starts: start 7, end 6" in str(error.value)


def test_many_errors_are_counted(tmp_path):
    rows = "".join(f"{n},x,,a\n" for n in range(30))
    with pytest.raises(DataError, match="20 more lines with such errors"):
        read(tmp_path, f"path,start,end,label\n{rows}", whole=True)


def test_a_decimal_comma_is_a_decimal_point(tmp_path):
    manifest = read(tmp_path, "path;start;end;label\na;1,5;2,25;x\nb;;;y\n", whole=True)
    assert manifest.intervals[0].tolist() == [1.5, 2.25]


def test_rows_of_one_file_are_never_in_two_splits(tmp_path):
    rows = "".join(f"{n % 12}.mp4,{n},{n + 1},{'xy'[n % 2]}\n" for n in range(120))
    manifest = read(tmp_path, f"path,start,end,label\n{rows}", val=0.2, test=0.2)
    assert len(set(zip(manifest.paths.tolist(), manifest.splits.tolist(), strict=True))) == 12
    assert set(manifest.splits) == {"train", "val", "test"}


def test_given_splits_that_divide_a_file_are_a_leak(tmp_path):
    with pytest.raises(DataError, match=r"file .*a\.mp4 is in train and in test: a leak"):
        read(tmp_path, "path,start,end,label,split\na.mp4,0,1,x,train\na.mp4,1,2,x,test\nb.mp4,,,y,train\n")


def test_parts_of_a_file_may_have_different_labels_and_the_same_part_may_not(tmp_path):
    rows = "path,start,end,label\na.mp4,0,2,x\na.mp4,1,3,y\n"
    assert len(read(tmp_path, rows, whole=True)) == 2
    with pytest.raises(
        DataError, match=r"one clip has two labels: .*a\.mp4 \(0–2 s\) \(x\) and .*a\.mp4 \(0–2 s\) \(y\)"
    ):
        read(tmp_path, f"{rows}a.mp4,0,2.0,y\n", whole=True)


def test_labels_of_a_task_are_joined_by_file_and_interval(tmp_path):
    (tmp_path / "own.csv").write_text("path,start,end,speed\na,0,1,3\na,1,2,4\nb,,,5\n", encoding="utf-8")
    tasks = {"speed": Task(kind="regress", manifest=tmp_path / "own.csv")}
    manifest = read(tmp_path, "path,start,end\na,1,2\na,0,1\nb,4,5\na,2,3\n", whole=True, tasks=tasks)
    labels = manifest.tasks["speed"]
    assert labels.known.tolist() == [True, True, True, False]
    assert labels.values[:3, 0].tolist() == [4, 3, 5]


@given(st.integers(0, 10**12))
def test_the_text_of_seconds_says_each_microsecond(microseconds):
    text = seconds_text(microseconds / 1e6)
    assert round(float(text) * 1e6) == microseconds
    assert text == "0" or not text.endswith((".", ".0"))


def test_names_of_clips():
    assert clip_name("a.mp4") == "a.mp4"
    assert clip_name("a.mp4", 0.0, math.inf) == "a.mp4"
    assert interval_text(3600, math.inf) == "3600 s–end"


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60), st.integers(0, 6000), st.integers(0, 6000))
def test_frames_in_an_interval_are_those_that_a_loop_finds(gaps, start, length):
    times = np.cumsum(gaps) / 1e3
    end = (start + length) / 1e3
    first, count = frames_in_interval(times, start / 1e3, end)
    inside = [n for n, time in enumerate(times) if round(start * 1e3) <= round(time * 1e6) < round(end * 1e6)]
    assert list(range(first, first + count)) == inside


def test_without_groups_each_recording_is_one_and_given_groups_stay(tmp_path):
    rows = ["a.mp4,0,1,x", "a.mp4,1,2,y", "b.mp4,0,1,x", "c.mp4,,,y"]
    text = "\n".join(["path,start,end,label", *rows])
    assert read(tmp_path, text, whole=True).groups.tolist() == ["a.mp4", "a.mp4", "b.mp4", "c.mp4"]
    text = "\n".join(["path,start,end,label,group", *(f"{row},g{n % 2}" for n, row in enumerate(rows))])
    assert read(tmp_path, text, whole=True).groups.tolist() == ["g0", "g1", "g0", "g1"]
    assert read(tmp_path, "path,label\na,x\nb,y\n", whole=True).groups is None
