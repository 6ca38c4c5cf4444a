"""`finetune data import` and `finetune data export`: from the files of a tool to a manifest, and back."""

import csv
import json
import shutil
import subprocess

import annotation_files as files
import pytest
from corpus import X264
from grey import make_clip, make_images

from finetune.data.manifest import Manifest
from finetune.video.decode.probe import frame_times
from finetune.video.probe_files import scan_files


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with recordings/rec1.mp4 and recordings/deeper/rec2.mp4, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    for name in ("rec1.mp4", "deeper/rec2.mp4"):
        make_clip(tmp_path / "recordings" / name, 125, step=1)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_several_files_become_one_manifest_with_relative_paths(finetune, place):
    write(place / "a/walks.boris", files.BORIS)
    write(place / "a/rec2.txt", "0\t1.5\tsit\n")
    status, out, err = finetune(
        *("data", "import", "a/walks.boris", "a/rec2.txt", "--out", "sets/clips.csv", "--videos", "recordings")
    )
    assert status == 0, err
    assert out == "4 rows of 3 classes in 2 recordings, 5.0 s labelled\nsets/clips.csv\n"
    assert rows_of(place / "sets/clips.csv") == [
        ["path", "label", "start", "end", "subject"],
        ["../recordings/rec1.mp4", "walk", "1", "2.5", "Ann"],
        ["../recordings/rec1.mp4", "sit", "3", "4", "Ann"],
        ["../recordings/deeper/rec2.mp4", "blink", "0", "1", ""],
        ["../recordings/deeper/rec2.mp4", "sit", "0", "1.5", ""],
    ]
    assert "note: a/walks.boris: 2 tiers: Ann, No focal subject; --tier selects one\n" in err


def test_point_events_get_a_length_around_the_point(finetune, place):
    write(place / "rec1.txt", "0.2\t0.2\ta\n2\t2\tb\n")
    command = ("data", "import", "rec1.txt", "--out", "clips.csv", "--videos", "recordings", "--point-seconds", "0.5")
    assert finetune(*command)[0] == 0
    assert [row[1:4] for row in rows_of(place / "clips.csv")[1:]] == [["a", "0", "0.45"], ["b", "1.75", "2.25"]]


def test_a_tier_is_selected_and_a_wrong_one_is_an_error_that_lists_them(finetune, place):
    write(place / "walks.eaf", files.ELAN)
    command = ("data", "import", "walks.eaf", "--out", "clips.csv", "--videos", "recordings", "--tier")
    assert finetune(*command, "words")[0] == 0
    assert {row[1] for row in rows_of(place / "clips.csv")[1:]} == {"go", "on", "down"}
    status, _, err = finetune(*command, "word")
    assert status == 2 and "there is no tier 'word'; there are acts, steps, words" in err
    write(place / "rec1.txt", "0\t1\ta\n")
    command = ("data", "import", "rec1.txt", "--out", "clips.csv", "--tier", "word")
    assert "there is no tier 'word'; these files have no tiers" in finetune(*command)[2]
    write(place / "walks.xml", files.CVAT)
    status, _, err = finetune(
        *("data", "import", "walks.xml", "--out", "clips.csv", "--videos", "recordings", "--tier", "speed")
    )
    assert status == 0 and "2 tiers: label, speed (read); --tier selects one" in err
    assert [row[1:4] for row in rows_of(place / "clips.csv")[1:]] == [["slow", "1", "2"], ["fast", "2", "2.48"]]


def test_all_that_is_wrong_is_named_at_once_and_nothing_is_written(finetune, place):
    text = "path,label,start,end\nrec1.mp4,a,1,2\nrec11.mp4,a,1,2\nrec1.mp4,a,3,2\nrec1.mp4,a,-1,2\nrec1.mp4,a,soon,2\n"
    write(place / "table.csv", text)
    write(place / "page.html", "<html/>")
    command = (
        "data",
        "import",
        "table.csv",
        "page.html",
        "nowhere.csv",
        "--out",
        "clips.csv",
        "--videos",
        "recordings",
    )
    status, _, err = finetune(*command)
    assert status == 2 and not (place / "clips.csv").exists()
    lines = err.splitlines()
    assert lines[0] == "finetune: 6 problems:"
    assert [line for line in lines if not line.startswith("  ")][1:] == [
        "page.html: is XML with the root 'html', and is no known annotation file. --from names its format:",
        "nowhere.csv: there is no such file",
        "table.csv: line 6: start 'soon' is no time; write seconds, or hours:minutes:seconds",
        "table.csv: video “rec11.mp4” (1 row): not found in recordings (nearest: rec1.mp4, rec2.mp4, rec1)",
        "table.csv: line 4: ends at 2 s, before it starts at 3 s",
        "table.csv: line 5: its start, -1 s, is no time in a recording",
        "nothing was written; correct this, or leave these out with --on-error skip",
    ]
    status, out, err = finetune(*command, "--on-error", "skip")
    assert status == 0 and out.startswith("1 row of 1 class in 1 recording, 1.0 s labelled\n")
    assert err.count("skipped: ") == 6 and len(rows_of(place / "clips.csv")) == 2


def test_without_a_folder_videos_are_looked_for_beside_the_file(finetune, place):
    shutil.move(place / "recordings/rec1.mp4", place / "rec1.mp4")
    write(place / "clips.vtt", files.VTT)
    write(place / "table.csv", files.CSV.replace("rec1.mp4,sit", "recordings/deeper/rec2.mp4,sit"))
    assert finetune("data", "import", "table.csv", "--out", "clips.csv")[0] == 0
    assert [row[0] for row in rows_of(place / "clips.csv")[1:]] == ["rec1.mp4", "recordings/deeper/rec2.mp4"]
    status, _, err = finetune("data", "import", "clips.vtt", "--out", "clips.csv")
    assert status == 2 and "not found in .; --videos names the folder of the videos" in err


def test_frames_have_the_times_of_the_video_also_at_a_variable_rate(finetune, place):
    video = place / "recordings/rec1.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=4"]
    variable = ["-vf", r"select='not(between(n\,20\,60))'", "-fps_mode", "vfr"]
    encoder = [*X264.split(), "keyint=12"]
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, *variable, *encoder, video], check=True)
    times = frame_times(video)
    assert len(times) == 59 and times[20] - times[19] > 1.5
    write(place / "rec1.csv", "label,start_frame,end_frame\na,5,19\nb,20,29\nc,50,58\n")
    command = ("data", "import", "rec1.csv", "--out", "clips.csv", "--videos", "recordings")
    assert finetune(*command)[0] == 0
    spans = [[float(text or "inf") for text in row[2:4]] for row in rows_of(place / "clips.csv")[1:]]
    inside = [[number for number, time in enumerate(times) if start <= time < end] for start, end in spans]
    assert inside == [list(range(5, 20)), list(range(20, 30)), list(range(50, 59))]
    assert finetune(*command, "--fps", "10")[0] == 0
    assert [row[2:4] for row in rows_of(place / "clips.csv")[1:]] == [["0.5", "2"], ["2", "3"], ["5", "5.9"]]
    write(place / "rec1.csv", "label,start_frame,end_frame\na,5,19\nb,70,75\n")
    status, _, err = finetune(*command)
    assert status == 2 and "line 3: frame 75 does not exist: recordings/rec1.mp4 has 59 frames" in err


def test_folders_of_images_are_recordings_too(finetune, place):
    make_images(place / "recordings/walk", 50)
    write(place / "table.csv", "path,label,start_frame,end_frame\nwalk,a,25,34\n")
    assert finetune("data", "import", "table.csv", "--out", "clips.csv", "--videos", "recordings")[0] == 0
    assert rows_of(place / "clips.csv")[1] == ["recordings/walk", "a", "1", "1.4"]


def test_a_folder_that_has_the_name_of_a_video_is_not_taken_for_it(finetune, place):
    """A folder of results beside the labels of rec1.mp4, and a name that is empty."""
    (place / "rec1").mkdir()
    write(place / "rec1.txt", "0\t1\ta\n")
    assert finetune("data", "import", "rec1.txt", "--out", "clips.csv", "--videos", "recordings")[0] == 0
    assert rows_of(place / "clips.csv")[1][0] == "recordings/rec1.mp4"
    write(place / "via.json", files.VIA | {"file": {"1": {"fname": ""}, "2": {"fname": " "}}})
    status, _, err = finetune("data", "import", "via.json", "--out", "clips.csv", "--videos", "recordings")
    assert status == 2 and "video “” (3 rows): not found in recordings" in err


def test_one_video_may_be_given_whatever_name_the_file_has_for_it(finetune, place):
    job = files.CVAT.replace("<source>rec1.mp4</source>", "").replace("<name>walks</name>", "")
    write(place / "annotations.xml", job)
    command = ("data", "import", "annotations.xml", "--as", "events", "--out", "clips.csv", "--videos")
    assert finetune(*command, "recordings/deeper/rec2.mp4")[0] == 0
    assert rows_of(place / "clips.csv")[1] == ["recordings/deeper/rec2.mp4", "walk", "1", "2.48"]
    status, _, err = finetune(*command, "recordings")
    assert status == 2 and "video “annotations” (2 rows): not found in recordings" in err
    write(place / "annotations.xml", files.BORIS)
    status, _, err = finetune(*command, "recordings/rec1.mp4")
    assert status == 2 and "--videos is one file, but the annotations are of 2 videos" in err


def test_frames_are_timed_as_manifests_count_also_in_files_that_begin_later(finetune, place):
    """A broadcast's timestamps begin at any time; a player shows 0."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    late = ["-c", "copy", "-output_ts_offset", "100"]
    source, video = place / "recordings/rec1.mp4", place / "recordings/late.ts"
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *late, video], check=True)
    rows = "path,label,start_frame,end_frame\nlate.ts,a,10,19\nlate.ts,b,30,39\nrec2.mp4,a,10,19\nrec2.mp4,b,30,39\n"
    write(place / "table.csv", rows)
    assert finetune("data", "import", "table.csv", "--out", "clips.csv", "--videos", "recordings")[0] == 0
    manifest = Manifest.from_csv(place / "clips.csv", whole=True)
    facts = scan_files(manifest)
    assert not facts.bad
    assert facts.num_frames.tolist() == [10] * 4 and facts.first_frames.tolist() == [10, 30, 10, 30]


def test_a_video_that_cannot_be_read_is_named(finetune, place):
    (place / "recordings/rec1.mp4").write_bytes(b"no video")
    write(place / "walks.xml", files.CVAT)
    status, _, err = finetune("data", "import", "walks.xml", "--out", "clips.csv", "--videos", "recordings")
    assert status == 2 and "recordings/rec1.mp4: " in err and "Traceback" not in err


def test_events_go_to_a_tool_and_corrected_files_come_back(finetune, place):
    write(
        place / "events.csv",
        "path,start,end,label,score\nrecordings/rec1.mp4,1,2.5,walk,0.9\nrecordings/rec1.mp4,3,4,sit,0.8\n",
    )
    status, out, err = finetune("data", "export", "events.csv", "--to", "elan", "--out", "corrected")
    assert status == 0, err
    assert out == "2 rows of 2 classes in 1 recording, 2.5 s labelled\ncorrected/rec1.eaf\n"
    corrected = place / "corrected/rec1.eaf"
    corrected.write_text(corrected.read_text().replace(">sit<", ">stand<"))
    assert finetune("data", "import", "corrected/rec1.eaf", "--out", "clips.csv")[0] == 0
    assert [row[:4] for row in rows_of(place / "clips.csv")[1:]] == [
        ["recordings/rec1.mp4", "walk", "1", "2.5"],
        ["recordings/rec1.mp4", "stand", "3", "4"],
    ]
    status, _, err = finetune("data", "export", "events.csv", "--to", "elan", "--out", "corrected")
    assert status == 2 and "exists already, and may hold corrections" in err


def test_events_of_a_timeline_are_found_from_the_current_folder_and_selected_by_task(finetune, place):
    header = "path,start,end,label,score,task"
    rows = ["recordings/rec1.mp4,1.000,2.500,'=walk,0.9000,act", "recordings/rec1.mp4,1.000,4.000,slow,0.7000,pace"]
    write(place / "out/events.csv", "\n".join([header, *rows, ""]))
    status, out, err = finetune("data", "export", "out/events.csv", "--to", "audacity", "--tier", "act")
    assert status == 0, err
    assert out.splitlines()[-1] == "out/events-audacity/rec1.txt"
    assert (place / "out/events-audacity/rec1.txt").read_text() == "1.000000\t2.500000\t=walk\n"


def test_events_of_missing_videos_are_an_error_of_export_too(finetune, place):
    write(place / "events.csv", "path,start,end,label\nrec3.mp4,1,2.5,walk\n")
    status, _, err = finetune("data", "export", "events.csv", "--to", "boris", "--videos", "recordings")
    assert status == 2 and "video “rec3.mp4” (1 row): not found in recordings (nearest: rec2.mp4" in err
