"""Files of each tool are recognised by their content, and read as the tool means them."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import get_args

import annotation_files as files
import pytest
from grey import make_clip

from finetune.annotations.annotation import Annotation
from finetune.annotations.document import Document, open_document
from finetune.annotations.format_names import ExportFormat, Format
from finetune.annotations.formats import FORMAT_WORDS, WRITERS, read_document, recognise
from finetune.annotations.import_files import ImportOptions, import_annotations
from finetune.errors import DataError


def read(content, name="rec1.txt", kind=None):
    data = content if isinstance(content, bytes) else content.encode()
    return read_document(Document(tmp_name(name), data), kind)


def tmp_name(name):
    return Path("annotated") / name


def short(rows):
    """(name of the video, label, start, end) of annotations."""
    return [(row.video.replace("\\", "/").split("/")[-1], row.label, row.start, row.end) for row in rows]


def edited(value, **changes):
    return json.dumps({**value, **changes})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """rec1.mp4 and rec2.mp4 of 100 frames at 25 per second."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("rec1.mp4", "deeper/rec2.mp4"):
        make_clip(folder / name, 100, step=1)
    return folder


def test_every_format_has_words_and_every_written_one_is_read():
    assert set(FORMAT_WORDS) == set(get_args(Format))
    assert set(WRITERS) == set(get_args(ExportFormat)) <= set(get_args(Format))


@pytest.mark.parametrize("suffix", ["", ".csv", ".json", ".eaf", ".mp4"])
@pytest.mark.parametrize("sample", files.SAMPLES)
def test_a_file_is_recognised_by_its_content_whatever_its_suffix(sample, suffix):
    _, content, kind = files.SAMPLES[sample]
    content = content.replace('encoding="UTF-8"', "").replace('encoding="utf-8"', "")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for text in (content, content.replace("\n", "\r\n")):
            assert recognise(Document(tmp_name("x" + suffix), text.encode(encoding))) == kind


@pytest.mark.parametrize("sample", files.SAMPLES)
def test_the_sample_of_each_tool_gives_the_same_two_events(sample, recordings, tmp_path):
    name, content, _ = files.SAMPLES[sample]
    (tmp_path / name).write_text(content, encoding="utf-8")
    tier = {"elan": "acts", "via": "act"}.get(sample)
    imported = import_annotations([tmp_path / name], ImportOptions(videos=recordings, tier=tier))
    assert not imported.problems
    rows = [(row.label, row.start, row.end) for path, row in imported.rows if path == recordings / "rec1.mp4"]
    if sample == "cvat":
        assert rows == [("walk", 1.0, 2.48), ("sit", 3.0, None)]  # frames 25 to 61, and from frame 75 to the end
    else:
        assert rows == [("walk", 1.0, 2.5), ("sit", 3.0, 4.0)]


def test_unknown_content_is_an_error_that_lists_the_formats():
    for content in ("<svg/>", '{"a": 1}', "some words\nand more", "[1, 2]", "x,y\n1,2\n"):
        with pytest.raises(DataError, match=r"is no known annotation file. --from names its format:\n  csv "):
            recognise(Document(tmp_name("x"), content.encode()))


def test_from_overrides_what_the_content_shows():
    assert short(read("1\t2\twalk\n", kind="audacity").rows) == [("rec1", "walk", 1.0, 2.0)]
    with pytest.raises(DataError, match="is no complete JSON file"):
        read(files.CSV, kind="via")
    with pytest.raises(DataError, match="is no complete XML file"):
        read(files.CSV, kind="elan")


# Tables


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("video;class;begin;end\nrec1.mp4;walk;1,5;2,25\n", (1.5, 2.25)),
        ("file\tlabel\tstart_time\tstop_time\nrec1.mp4\twalk\t1.5\t2.25\n", (1.5, 2.25)),
        ("Path, Label, Start (ms), End (ms)\nrec1.mp4, walk, 1500, 2250\n", (1.5, 2.25)),
        ("path,label,start,duration\nrec1.mp4,walk,1:01.5,0.75\n", (61.5, 62.25)),
        ("path,label,start,end\nrec1.mp4,walk,01:00:01.5,\n", (3601.5, None)),
        ("path,label,start,end\nrec1.mp4,walk,,2\n", (None, 2.0)),
        ("path,label\nrec1.mp4,walk\n", (None, None)),
        ("path,behavior,time\nrec1.mp4,walk,2\n", (2.0, 2.0)),
        ('sep=;\npath;label;onset;offset\n"rec1.mp4";walk;1;2\n', (1.0, 2.0)),
        ("video_name,Begin Time - ss.msec,End Time - ss.msec,annotation\nrec1.mp4,1.5,2.25,walk\n", (1.5, 2.25)),
    ],
)
def test_tables_are_read_by_the_names_of_their_columns(text, wanted):
    (row,) = read(text).rows
    assert (row.video, row.label, row.start, row.end) == ("rec1.mp4", "walk", *wanted)


def test_a_table_may_count_frames_and_keep_further_columns():
    text = "path,label,start_frame,end_frame,fps,score,group,subset,subject\nrec1.mp4,walk,25,49,25,0.5,day 1,val,Ann\n"
    (row,) = read(text).rows
    assert row == Annotation(
        "rec1.mp4", "walk", frames=(25, 50), fps=25, score=0.5, subject="Ann", group="day 1", split="val"
    )


def test_a_table_without_a_column_of_videos_is_about_the_video_of_its_name():
    assert short(read("start,end,label\n1,2,walk\n", "talk.csv").rows) == [("talk", "walk", 1.0, 2.0)]


def test_rows_of_a_table_that_cannot_be_read_are_named_all_at_once():
    text = "path,label,start,end\nrec1.mp4,walk,soon,2\nrec1.mp4,sit,1,2\nrec1.mp4,sit,1,1:99\nrec1.mp4,a,b,1,2\n"
    content = read(text)
    assert len(content.rows) == 1
    assert [problem.split(";")[0] for problem in content.problems] == [
        "line 2: start 'soon' is no time",
        "line 4: end '1:99' is no time",
        "line 5 has more values than the header",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path,label,start\né.mp4,walk,1\n".encode("latin-1"), "line 2 cannot be read as UTF-8: '.\\.mp4,walk,1'"),
        (b"path,label,start\n\x00\x00", "is not a text file"),
        ("path,label,start\n".encode("utf-16")[2:], "UTF-16 without its mark"),
        (b'path,label,start\n"rec1.mp4,walk,1\n', "begins with 'path,label,start'"),
    ],
)
def test_other_encodings_and_open_quotes_are_errors_in_words(data, message):
    with pytest.raises(DataError, match=message):
        read(data)


# BORIS


def test_boris_pairs_states_subtracts_the_offset_and_leaves_out_live_observations():
    content = read(json.dumps(files.BORIS))
    assert short(content.rows) == [
        ("rec1.mp4", "walk", 1.0, 2.5),
        ("rec1.mp4", "sit", 3.0, 4.0),
        ("rec2.mp4", "blink", 0.5, 0.5),
    ]
    assert [row.tier for row in content.rows] == ["Ann", "Ann", "No focal subject"]
    assert content.notes == [
        "1 further player left out: only player 1 is read",
        "1 observation without videos left out (live, or of images)",
    ]


def test_unpaired_state_events_of_boris_are_named():
    first = files.BORIS["observations"]["first"]
    content = read(edited(files.BORIS, observations={"first": first | {"events": first["events"][:3]}}))
    assert len(content.rows) == 1
    assert content.problems == [
        "observation first, event 3: state event 'sit' of Ann starts at 3 s and has no stop",
    ]
    table = files.BORIS_TABULAR.replace("STOP\t4.000", "START\t4.000").replace(
        "sit\t\t\tSTART\t3.000", "x\t\t\tSTART\t3"
    )
    assert [problem.split(" starts")[0] for problem in read(table).problems] == [
        "line 4: state event 'x' of Ann",
        "line 5: state event 'sit' of Ann",
    ]


def test_an_observation_of_several_files_is_divided_between_them():
    observation = {
        "file": {"1": ["rec1.mp4", "rec2.mp4"]},
        "type": "MEDIA",
        "events": [[9.0, "", "walk", "", ""], [12.0, "", "walk", "", ""], [13.0, "", "blink", "", ""]],
        "media_info": {"length": {"rec1.mp4": 10.0, "rec2.mp4": 10.0}},
    }
    content = read(edited(files.BORIS, observations={"day": observation}))
    assert short(content.rows) == [
        ("rec1.mp4", "walk", 9.0, 10.0),
        ("rec2.mp4", "walk", 0.0, 2.0),
        ("rec2.mp4", "blink", 3.0, 3.0),
    ]
    assert {row.group for row in content.rows} == {"day"}
    table = files.BORIS_AGGREGATED.replace("player #1:rec1.mp4,0,20", "player #1:rec1.mp4;rec2.mp4,0,2;18")
    assert short(read(table).rows)[:3] == [
        ("rec1.mp4", "walk", 1.0, 2.0),
        ("rec2.mp4", "walk", 0.0, 0.5),
        ("rec2.mp4", "sit", 1.0, 2.0),
    ]
    observation["media_info"] = {}
    (problem,) = read(edited(files.BORIS, observations={"day": observation})).problems
    assert "the length of rec1.mp4 is not known" in problem


def test_events_of_behaviors_that_the_project_lacks_are_named():
    first = files.BORIS["observations"]["first"]
    content = read(
        edited(files.BORIS, observations={"first": first | {"events": [[1, "", "run"], ["x"], [None, "", "walk"]]}})
    )
    assert len(content.problems) == 3 and "behavior 'run' is not in the project's ethogram" in content.problems[0]


# ELAN


def test_elan_tiers_have_the_times_of_slots_of_their_parents_and_of_the_media():
    rows = read(files.ELAN).rows
    of_tier = {
        tier: [(row.label, row.start, row.end) for row in rows if row.tier == tier] for tier in ("steps", "words")
    }
    assert of_tier["steps"] == [("left", 1.0, 1.5), ("right", 1.5, 2.0), ("left", 2.0, 2.5)]
    assert sorted(of_tier["words"], key=lambda row: row[1]) == [
        ("go", 1.0, 1.75),
        ("on", 1.75, 2.5),
        ("down", 3.0, 4.0),
    ]
    assert {row.video for row in rows} == {"file:///C:/Users/ann/rec1.mp4"} and rows[0].subject == "Ann"


def test_elan_annotations_without_times_or_text_are_named_or_counted():
    content = read(files.ELAN.replace('TIME_VALUE="3500"', "").replace(">walk<", "> <"))
    assert [problem.split(":")[0] for problem in content.problems] == [
        "tier acts, annotation a2",
        "tier words, annotation a6",
    ]
    assert content.notes == ["1 annotation without a text left out"]


def test_document_types_and_deep_nesting_are_refused():
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))
    for text in (
        f"<!DOCTYPE x [{laughs}]><ANNOTATION_DOCUMENT>&l9;</ANNOTATION_DOCUMENT>",
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations/>',
    ):
        with pytest.raises(DataError, match="has a DOCTYPE"):
            read(text)
    with pytest.raises(DataError, match="nests more than 50 elements"):
        read("<annotations>" * 100_000)


# Label Studio


def test_label_studio_counts_frames_from_1_and_takes_the_confirmed_annotation():
    content = read(json.dumps(files.LABEL_STUDIO))
    assert [(row.label, row.frames, row.fps, row.tier) for row in content.rows] == [
        ("walk", (10, 25), 10.0, "acts"),
        ("sit", (30, 40), 10.0, "acts"),
        ("empty", None, None, "kind"),
    ]
    assert content.notes == ["1 box left out; --as objects reads them"]
    task = files.LABEL_STUDIO[0]
    answer = task["annotations"][0]
    other = json.loads(json.dumps(answer).replace("walk", "run"))
    answers = [answer, other | {"was_cancelled": True}]
    assert read(json.dumps([task | {"annotations": answers}])).rows[0].label == "walk"
    content = read(json.dumps([task | {"annotations": [answer, other]}]))
    assert content.rows[0].label == "run" and "several annotations" in content.notes[1]
    content = read(json.dumps([task | {"annotations": [answer | {"ground_truth": True}, other]}]))
    assert content.rows[0].label == "walk"
    content = read(json.dumps([task | {"annotations": [], "predictions": [other | {"score": 0.5}]}]))
    assert content.rows[0].score == 0.5 and "nobody confirmed them" in content.notes[1]


def test_the_frame_rate_of_label_studio_follows_from_boxes_or_is_that_of_the_video():
    task = json.loads(json.dumps(files.LABEL_STUDIO[0]))
    del task["data"]["fps"]
    assert read(json.dumps([task])).rows[0].fps == 10.0
    del task["annotations"][0]["result"][2]
    assert read(json.dumps([task])).rows[0].fps is None


# CVAT


def test_cvat_tracks_are_intervals_and_attributes_are_tiers():
    content = read(files.CVAT)
    assert [(row.label, row.frames, row.tier) for row in content.rows] == [
        ("walk", (25, 62), "label"),
        ("slow", (25, 50), "speed"),
        ("fast", (50, 62), "speed"),
        ("sit", (75, 100), "label"),
    ]
    assert content.notes == ["the boxes of 2 tracks left out; --as objects reads them"]


def test_cvat_tags_of_frames_in_a_row_are_one_interval():
    images = "".join(
        f'<image id="{number}" name="frame_{number}"><tag label="walk"/><box label="dog" xtl="0"/></image>'
        for number in (0, 5, 10, 40)
    )
    text = files.CVAT.replace("<frame_filter>", "<frame_filter>step=5")
    text = text[: text.index("<track")] + images + "</annotations>"
    content = read(text)
    assert [(row.label, row.frames, row.video) for row in content.rows] == [
        ("walk", (0, 15), "rec1.mp4"),
        ("walk", (40, 45), "rec1.mp4"),
    ]
    assert content.notes == ["4 shapes of single frames left out; --as objects reads them"]


def test_cvat_projects_name_the_video_of_each_task():
    task = "<task><id>{0}</id><source>rec{0}.mp4</source></task>"
    tracks = '<track label="a" task_id="2"><box frame="3"/><box frame="9" outside="1"/></track>'
    meta = f"<meta><project><tasks>{task.format(1)}{task.format(2)}</tasks></project></meta>"
    (row,) = read(f"<annotations>{meta}{tracks}</annotations>").rows
    assert (row.video, row.frames) == ("rec2.mp4", (3, 9))
    content = read(f"<annotations>{meta}{tracks.replace('9', 'x')}</annotations>")
    assert content.problems == ["track 0: 'x' is no number of a frame"]


# VIA, ActivityNet, Audacity, subtitles


def test_via_segments_have_a_label_for_each_attribute_and_choice():
    content = read(json.dumps(files.VIA))
    assert [(*row[:2], *row[2:]) for row in short(content.rows)] == [
        ("rec1.mp4", "walk", 1.0, 2.5),
        ("rec1.mp4", "a, b", 1.0, 2.5),
        ("rec1.mp4", "sit", 3.0, 4.0),
        ("rec2.mp4", "walk", 0.5, 0.5),
        ("rec2.mp4", "sit", 0.5, 0.5),
    ]
    assert content.notes == ["1 region in frames left out: only times are read"]


def test_subsets_of_activitynet_are_splits_and_predictions_have_scores():
    content = read(json.dumps(files.ACTIVITYNET))
    assert [row.split for row in content.rows] == ["training", "training"]
    assert content.notes == ["1 video without segments"]
    results = {"results": {"rec1": [{"label": "walk", "score": 0.25, "segment": [1, 2]}]}, "external_data": {}}
    (row,) = read(json.dumps(results)).rows
    assert (row.score, row.start, row.end) == (0.25, 1.0, 2.0)


def test_lines_of_audacity_and_cues_without_times_are_named():
    assert read(files.AUDACITY + "words\n").problems == ["line 4: 'words' does not begin with two times"]
    content = read("WEBVTT\n\n00:01 --> soon\nwalk\n\n00:03.000 --> 00:04.000\na &amp; b\n")
    assert content.problems == ["line 3: '00:01 --> soon' is no pair of times"]
    assert content.rows[0].label == "a & b" and content.rows[0].where == "line 6"


# Compressed files


def zipped(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", data)
    return file.getvalue()


def test_compressed_files_are_read_and_bombs_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.boris.gz").write_bytes(gzip.compress(json.dumps(files.BORIS).encode()))
    assert recognise(open_document(tmp_path / "a.boris.gz")) == "boris"
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.writestr("annotations.xml", files.CVAT)
        archive.writestr("images/frame_1.xml", "")
    assert recognise(open_document(tmp_path / "task.zip")) == "cvat"
    monkeypatch.setattr("finetune.annotations.document.MAX_BYTES", 1000)
    for name, compress in (("bomb.gz", gzip.compress), ("bomb.zip", zipped)):
        (tmp_path / name).write_bytes(compress(b" " * 10**5))
        with pytest.raises(DataError, match="unpacks to more than"):
            open_document(tmp_path / name)
    (tmp_path / "cut.gz").write_bytes((tmp_path / "a.boris.gz").read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_document(tmp_path / "cut.gz")
