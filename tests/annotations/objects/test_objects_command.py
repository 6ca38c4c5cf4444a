"""`finetune data import` and `finetune data export` of objects: from the files of a tool to a manifest, and back."""

import csv
import json

import annotation_files
import object_files as files
import pytest

from finetune.data.manifest import Manifest
from finetune.recipe.tasks import Task


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with recordings/rec1.mp4, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    files.make_video(tmp_path / "recordings/rec1.mp4")
    return tmp_path


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_objects_become_a_manifest_of_labelled_frames_that_training_reads(finetune, place):
    files.write_sample("coco", place)
    status, out, err = finetune("data", "import", "objects.json", "--out", "sets/clips.csv", "--videos", "recordings")
    assert status == 0, err
    summary = "2 labelled frames of 1 video, 1 of them without objects; 2 objects of 2 classes, 2 identities"
    assert out == f"{summary}\nsets/clips.csv\n"
    assert rows_of(place / "sets/clips.csv") == [
        ["path", "start", "end", "objects"],
        ["../recordings/rec1.mp4", "0.06", "0.1", "car:8,12,16,6#1;person:40,20,8,16#2"],
        ["../recordings/rec1.mp4", "0.14", "0.18", ""],
    ]
    manifest = Manifest.from_csv(place / "sets/clips.csv", whole=True, tasks={"objects": Task(kind="detect")})
    assert manifest.tasks["objects"].names == ("car", "person")


def test_dense_labels_are_thinned_and_the_note_says_so(finetune, place):
    files.write_sample("cvat video", place)
    command = ("data", "import", "annotations.xml", "--out", "clips.csv", "--videos", "recordings", "--every", "3")
    status, out, err = finetune(*command)
    assert status == 0 and out.startswith("3 labelled frames of 1 video, 1 of them without objects; 2 objects of 1")
    assert "note: 3 of 8 labelled frames kept, at least 3 frames apart" in err
    assert "2 tracks read as objects; --as events reads the times of their labels" in err


@pytest.mark.parametrize("option", ["--every", "--first-frame"])
def test_options_of_objects_are_refused_for_events(option, finetune, place):
    (place / "events.csv").write_text("path,start,end,label\nrecordings/rec1.mp4,0,0.1,jump\n")
    status, _, err = finetune("data", "import", "events.csv", "--out", "clips.csv", option, "3")
    assert status == 2
    assert "events.csv: --every and --first-frame are for files of objects; this one is read as events" in err


@pytest.mark.parametrize("option", [(), ("--as", "objects"), ("--from", "csv")])
def test_a_manifest_of_labelled_frames_is_not_imported_as_events(option, finetune, place):
    (place / "frames.csv").write_text('path,start,end,label,objects\nrecordings/rec1.mp4,0.06,0.1,a,"car:1,2,3,4"\n')
    status, _, err = finetune("data", "import", "frames.csv", "--out", "clips.csv", *option)
    assert status == 2 and not (place / "clips.csv").exists()
    assert "frames.csv: has a column “objects”, so it is a manifest of labelled frames already" in err
    assert finetune("data", "import", "frames.csv", "--out", "clips.csv", "--as", "events")[0] == 0


def test_a_place_that_cannot_be_written_is_one_plain_error(finetune, place):
    (place / "frames.csv").write_text('path,start,end,label,objects\nrecordings/rec1.mp4,0.06,0.1,a,"car:1,2,3,4"\n')
    (place / "afile").write_text("")
    for kind in ("mot", "elan"):
        status, out, err = finetune("data", "export", "frames.csv", "--to", kind, "--out", "afile/x")
        assert status == 2 and not out
        assert err.startswith("finetune: afile/x/rec1") and "cannot be written: Not a directory" in err


def test_events_of_a_file_with_boxes_are_read_on_demand(finetune, place):
    files.write_sample("cvat video", place)
    command = ("data", "import", "annotations.xml", "--out", "clips.csv", "--videos", "recordings")
    status, _, err = finetune(*command, "--as", "events")
    assert status == 0, err
    assert rows_of(place / "clips.csv")[0] == ["path", "label", "start", "end"]
    (place / "tasks.json").write_text(json.dumps(annotation_files.LABEL_STUDIO[:1]))
    status, _, err = finetune("data", "import", "tasks.json", "--out", "clips.csv", "--videos", "recordings")
    assert status == 0 and "1 box left out; --as objects reads them" in err


def test_all_that_is_wrong_is_named_at_once_and_may_be_skipped(finetune, place):
    images = [*files.COCO["images"], {"id": 1, "file_name": "rec9_000001.jpg"}, {"id": 2, "file_name": "rec1_99.jpg"}]
    boxes = [
        {"image_id": 12, "category_id": 3, "bbox": [100, 100, 5, 5]},
        {"image_id": 12, "category_id": 3, "bbox": [1, 1, 0, 5]},
        {"image_id": 77, "category_id": 3, "bbox": [1, 1, 5, 5]},
        {"image_id": 700, "category_id": 4, "bbox": [1, 1, 5, 5]},
    ]
    (place / "a.json").write_text(json.dumps(files.COCO | {"images": images, "annotations": boxes}))
    command = ("data", "import", "a.json", "nowhere.json", "--out", "clips.csv", "--videos", "recordings")
    status, _, err = finetune(*command)
    assert status == 2 and not (place / "clips.csv").exists()
    assert err.splitlines()[1:] == [
        "finetune: 7 problems:",
        "a.json: annotations[2]: there is no image with the ID 77",
        "a.json: annotations[3]: there is no category with the ID 4",
        "a.json: image “rec9_000001.jpg”: not found in recordings, and neither is a video with its name",
        "a.json: frame 99 does not exist: recordings/rec1.mp4 has frames 0 to 7",
        "a.json: image 12: the box of car is outside the picture of 64 × 48 pixels: 100, 100, 5, 5",
        "a.json: image 12: the box of car has no area: 1, 1, 0, 5 (left, top, width, height)",
        "nowhere.json: there is no such file",
        "nothing was written; correct this, or leave these out with --on-error skip",
    ]
    status, _, err = finetune(*command, "--on-error", "skip")
    assert status == 0 and err.count("skipped: ") == 7
    assert rows_of(place / "clips.csv")[1:] == [["recordings/rec1.mp4", "0.06", "0.1", ""]]


def test_formats_of_events_and_objects_are_not_mixed_up(finetune, place):
    files.write_sample("coco", place)
    command = ("data", "import", "objects.json", "--out", "clips.csv")
    assert "files of the format elan hold no objects" in finetune(*command, "--as", "objects", "--from", "elan")[2]
    assert "files of the format coco hold no events" in finetune(*command, "--as", "events", "--from", "coco")[2]
    (place / "x.json").write_text("{}")
    status, _, err = finetune("data", "import", "x.json", "--out", "clips.csv")
    assert status == 2 and "\n  coco          objects: COCO's JSON\n" in err


@pytest.mark.parametrize("kind", ["coco", "mot", "cvat"])
def test_a_manifest_goes_to_a_tool_and_comes_back(kind, finetune, place):
    files.write_sample("mot", place)
    videos = ("--videos", "recordings")
    assert finetune("data", "import", "gt.txt", "--out", "clips.csv", *videos)[0] == 0
    status, out, err = finetune("data", "export", "clips.csv", "--to", kind)
    assert status == 0, err
    written = [place / line for line in out.splitlines()[1:]]
    assert written[0].relative_to(place).as_posix().startswith(f"clips-{kind}")
    assert finetune("data", "import", written[0], "--out", "back.csv", *videos)[0] == 0
    assert sorted(rows_of(place / "back.csv")) == sorted(rows_of(place / "clips.csv"))
    status, _, err = finetune("data", "export", "clips.csv", "--to", kind)
    assert status == 2 and "exists already, and may hold corrections" in err


def test_files_of_one_tool_are_exported_to_another(finetune, place):
    files.write_sample("label studio video", place)
    status, out, err = finetune("data", "export", "tasks.json", "--to", "cvat", "--videos", "recordings")
    assert status == 0, err
    assert out.splitlines()[-1] == "tasks-cvat/rec1.xml"
    assert '<track id="0" label="car" source="manual">' in (place / "tasks-cvat/rec1.xml").read_text()


def test_rows_of_a_manifest_that_cannot_be_read_are_named(finetune, place):
    lines = [
        "path,start,end,objects",
        'recordings/rec1.mp4,0.06,0.1,"car:1,2"',
        "recordings/rec2.mp4,0.06,0.1,",
        'recordings/rec1.mp4,9,10,"car:1,2,3,4"',
        "recordings/rec1.mp4,0.06,0.1,;;",
    ]
    (place / "clips.csv").write_text("\n".join(lines))
    status, _, err = finetune("data", "export", "clips.csv", "--to", "coco")
    problems = err.splitlines()
    assert status == 2 and problems[0] == "finetune: 3 problems:"
    assert problems[1].startswith("clips.csv: line 2: 'car:1,2' ") and "recordings/rec2.mp4" in problems[2]
    assert problems[3] == "clips.csv: line 4: recordings/rec1.mp4 has no frame between 9 and 10 s"
