"""The page of summaries shows every part with its time, and stays small for many and long recordings."""

from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.report.pages.summary import MAX_RECORDINGS, MAX_SHOTS, SummaryFiles, write_summary_page
from finetune.summaries.summary import Part, Summary


def summary_of(number=3, *, path=Path("/data/walk.mp4"), seconds=100.0, label=None, shots=(10.0, 55.5), length=2.0):
    step = seconds / max(1, number)
    parts = tuple(Part(step * n, step * n + length, n / max(1, number), label, n) for n in range(number))
    return Summary(path, seconds, parts, tuple(shots), "most representative parts", (90, 160))


def written(tmp_path, summaries, files=None):
    page = tmp_path / "summary.html"
    write_summary_page(summaries, files or [SummaryFiles()] * len(summaries), path=page)
    return page.read_text(encoding="utf-8")


def test_parts_shots_numbers_and_files_are_on_the_page(tmp_path):
    files = SummaryFiles(
        {}, tmp_path / "walk-storyboard.png", Path("/other/walk #1.mp4"), "The video was cut without encoding."
    )
    html = written(tmp_path, [summary_of(label="waves")], [files])
    assert "3 parts, 0:06 of 1:40 (6.0\u00a0%), 3 shots. Chosen by: most representative parts." in html
    assert "The video was cut without encoding." in html
    assert 'href="walk-storyboard.png"' in html and 'href="file:///other/walk%20%231.mp4"' in html
    assert html.count('class="event') == 3 and html.count("<li id=") == 3 and "<bdi>waves</bdi>" in html
    assert 'd="M1000 0v1M5550 0v1"' in html


def test_without_javascript_a_picture_leads_to_its_time_in_the_recording(tmp_path):
    video = tmp_path / "a b.mp4"
    video.write_bytes(b"x")
    assert f'href="{video.as_uri()}#t=50.00,52.00"' in written(tmp_path, [summary_of(2, path=video)])


def test_single_frames_have_one_time_and_are_not_played_in_turn(tmp_path):
    html = written(tmp_path, [summary_of(2, length=0.0)])
    assert "<b>0:50.0</b>" in html and 'type="button" data-play-all' not in html and "2 frames of 1:40" in html


def test_an_empty_summary_and_a_recording_without_length_are_shown(tmp_path):
    html = written(tmp_path, [summary_of(0, seconds=0.0, shots=()), summary_of(1, seconds=0.04)])
    assert "0 frames" in html and "1 part" in html


def test_many_recordings_parts_and_shots_are_bounded_and_said(tmp_path):
    many = summary_of(50, shots=[place / 100 for place in range(1, 9900)])
    html = written(tmp_path, [many] * (MAX_RECORDINGS + 20))
    assert f"The page shows the first {MAX_RECORDINGS} recordings; parts.csv has all." in html
    assert html.count("<section") == MAX_RECORDINGS and "The 10 with the highest scores are shown" in html
    assert html.split('class="shots"')[1].count("0v1") <= MAX_SHOTS and len(html) < 8e6


def test_a_page_that_cannot_be_written_is_a_plain_error(tmp_path):
    with pytest.raises(RunError, match=r"summary\.html: cannot be written"):
        write_summary_page([], [], path=tmp_path / "missing" / "summary.html")
