"""The files of summaries: names that do not clash, nothing of the user's replaced, and rows that commands read."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grey import make_clip, make_images

from finetune.cli.summary_files import SummaryOptions, open_writer, output_stems
from finetune.data.manifest import Manifest
from finetune.errors import DataError, RunError
from finetune.summaries.summary import Part, Summary
from finetune.video.decode.probe import probe


def quiet(what, done, total):
    pass


def summary_of(path, *, length=0.4, label=None):
    parts = tuple(Part(start, start + length, 0.5, label, round(start * 25)) for start in (0.2, 1.0))
    return Summary(path, 2.0, parts, (0.9,), "most representative parts", (96, 96))


@pytest.mark.parametrize(
    ("videos", "stems"),
    [
        (["/d/a.mp4", "/d/b.mp4"], ["a", "b"]),
        (["/d/1/a.mp4", "/d/2/a.mp4"], ["1/a", "2/a"]),
        (["/d/a.mp4", "/d/A.avi"], ["a.mp4", "A.avi"]),
        (["/d/a.b.mp4"], ["a.b"]),
    ],
)
def test_files_are_named_after_recordings_and_never_share_a_name(videos, stems):
    assert [stem.as_posix() for stem in output_stems([Path(video) for video in videos]).values()] == stems


def test_a_recording_gets_a_video_a_storyboard_its_parts_and_the_page(tmp_path):
    clips = [
        make_clip(tmp_path / "it's a/clip.mp4", 50, size=96, step=1),
        make_images(tmp_path / "images", 50, size=96),
    ]
    writer = open_writer(SummaryOptions(tmp_path / "out", to="elan"), clips)
    summaries = [summary_of(clips[0], label="waves"), summary_of(clips[1])]
    for summary in summaries:
        video, storyboard = writer.write_recording(summary, quiet)
        assert video.name.endswith("-summary.mp4") and probe(storyboard).width > 300
        assert probe(video).duration_seconds == pytest.approx(0.8, abs=0.5)
    files = writer.write_all(summaries)
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == [
        *("summary.html", "parts.csv", "parts-elan/images.eaf", "parts-elan/clip.eaf")
    ]
    assert "summary" in files[2].read_text() and "waves" in files[3].read_text()


def test_parts_that_are_events_are_rows_to_train_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = make_clip(Path("clip.mp4"), 50, size=96, step=1)
    writer = open_writer(SummaryOptions(tmp_path / "out", videos=False), [clip])
    waves, bows = (summary_of(clip, label=label).parts for label in ("waves", "bows"))
    summary = replace(summary_of(clip), parts=(waves[0], bows[1]))
    writer.write_recording(summary, quiet)
    rows = Manifest.from_csv(writer.write_all([summary])[1], val=0, test=0)
    assert list(rows.classes) == ["bows", "waves"] and np.allclose(rows.intervals, [[0.2, 0.6], [1.0, 1.4]])


def test_no_video_is_written_where_none_is_wanted_or_parts_are_single_frames(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 50, size=96, step=1)
    for options, summary in (
        (SummaryOptions(tmp_path / "a", videos=False), summary_of(clip)),
        (SummaryOptions(tmp_path / "b"), summary_of(clip, length=0.0)),
    ):
        writer = open_writer(options, [clip])
        assert [path.name for path in writer.write_recording(summary, quiet)] == ["clip-storyboard.png"]


def test_a_recording_and_corrected_annotations_are_not_replaced(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 8)
    with pytest.raises(RunError, match=r"clip-summary\.mp4: is one of the recordings"):
        open_writer(SummaryOptions(tmp_path), [clip, make_clip(tmp_path / "clip-summary.mp4", 8)])
    (tmp_path / "parts-boris.boris").write_text("corrected")
    with pytest.raises(DataError, match=r"parts-boris\.boris exists already, and may hold corrections"):
        open_writer(SummaryOptions(tmp_path, to="boris"), [clip])


@pytest.mark.skipif(sys.platform == "win32", reason="folders without permission")
def test_a_folder_that_cannot_be_written_is_a_plain_error(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", 50, size=96, step=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written"):
        open_writer(SummaryOptions(tmp_path / "file" / "out"), [clip]).write_recording(summary_of(clip), quiet)
