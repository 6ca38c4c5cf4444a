"""Labelled frames that are exported to a tool are imported again as the same objects in the same frames."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import object_files as files
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from finetune.annotations.export_files import names_in_folder
from finetune.annotations.objects.export_objects import VideoLength, export_objects, read_labelled_frames, write_objects
from finetune.annotations.objects.frame_numbers import frame_intervals, read_video_frames
from finetune.annotations.objects.frame_objects import FrameObjects
from finetune.annotations.objects.import_objects import (
    ImportedObjects,
    ObjectImportOptions,
    import_objects,
    write_object_manifest,
)
from finetune.annotations.objects.label_video import LabelledFrame
from finetune.data.object_labels import LabelledObject
from finetune.errors import DataError, FinetuneError

FRAMES = 8
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=";"), min_size=1, max_size=5)
SIDES = st.integers(1, 20_000).map(lambda thousandths: thousandths / 1000)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A video and a folder of images, of 8 frames of 64 × 48 pixels."""
    folder = tmp_path_factory.mktemp("videos")
    return files.make_video(folder / "rec1.mp4", FRAMES), files.make_frames(folder / "rec2", FRAMES)


@st.composite
def frames_of_a_video(draw):
    """The objects of some frames by number; all have identities, or none has."""
    has_tracks = draw(st.booleans())
    frames = {}
    for number in draw(st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=FRAMES, unique=True)):
        identities = draw(st.lists(st.integers(0, 50), max_size=3, unique=True))
        frames[number] = [
            LabelledObject(
                draw(NAMES),
                draw(SIDES),
                draw(SIDES),
                draw(SIDES),
                draw(SIDES),
                track if has_tracks else None,
                draw(st.booleans()),
            )
            for track in identities
        ]
    return {number: list(dict.fromkeys(items)) for number, items in sorted(frames.items())}


def rows_of(path, frames):
    video = read_video_frames(path)
    intervals_N2 = frame_intervals(video.times_N)
    return [
        LabelledFrame(path, number, *intervals_N2[number].tolist(), video.size, tuple(items))
        for number, items in frames.items()
    ]


def comparable(rows):
    """By video and frame, the objects in any order, to 0.002 pixels."""
    return {
        (row.path.name, row.frame): sorted(
            (item.name, item.track, item.ignore, *(round(500 * value) for value in item[1:5])) for item in row.objects
        )
        for row in rows
    }


def imported(paths, folder):
    result = import_objects(paths, ObjectImportOptions(videos=folder))
    assert result.problems == []
    return result.rows


def near(rows, others):
    """Whether the objects are the same; corners may differ by the resolution of the file."""
    one, two = comparable(rows), comparable(others)
    assert one.keys() == two.keys()
    for key, items in one.items():
        for item, other in zip(items, two[key], strict=True):
            assert item[:3] == other[:3]
            assert all(abs(a - b) <= 2 for a, b in zip(item[3:], other[3:], strict=True)), (item, other)


def with_lasting_classes(frames):
    """Each identity has the class of its first object: a track of CVAT has one. It may be ignored in single frames."""
    first = {}
    for items in frames.values():
        for item in items:
            first.setdefault(item.track, item)
    return {number: [item._replace(name=first[item.track].name) for item in items] for number, items in frames.items()}


round_trip = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@round_trip
@given(one=frames_of_a_video(), two=frames_of_a_video())
def test_coco_and_the_manifest_keep_the_labelled_frames_and_their_objects(one, two, videos, tmp_path_factory):
    rows = [*rows_of(videos[0], one), *rows_of(videos[1], two)]
    folder = tmp_path_factory.mktemp("out")
    export_objects(rows, "coco", folder / "a.json")
    near(imported([folder / "a.json"], videos[0].parent), rows)
    write_object_manifest(ImportedObjects(rows, [], []), folder / "clips.csv")
    back = read_labelled_frames(folder / "clips.csv", None)
    assert back.problems == []
    assert [replace(row, path=row.path.resolve()) for row in back.rows] == sorted(
        rows, key=lambda row: (row.path, row.frame)
    )


@round_trip
@given(frames=frames_of_a_video())
def test_mot_keeps_the_objects_and_takes_all_frames_as_labelled(frames, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    assume(any(frames.values()))
    rows = rows_of(videos[0], frames)
    exported = export_objects(rows, "mot", folder / "mot")
    near(imported([folder / "mot"], videos[0].parent), rows_of(videos[0], dict.fromkeys(range(FRAMES), ()) | frames))
    assert bool(exported.notes) == (len(frames) < FRAMES)


@round_trip
@given(frames=frames_of_a_video())
def test_cvat_keeps_the_objects_of_the_labelled_frames(frames, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    has_tracks = any(item.track is not None for items in frames.values() for item in items)
    frames = with_lasting_classes(frames) if has_tracks else frames
    rows = rows_of(videos[0], frames)
    export_objects(rows, "cvat", folder / "cvat")
    back = [row for row in imported([folder / "cvat" / "rec1.xml"], videos[0].parent) if row.frame in frames]
    near(back, rows)


@pytest.mark.parametrize("kind", ["mot", "cvat"])
def test_videos_of_one_name_are_written_below_the_folder_that_they_share(kind, videos, tmp_path):
    rows = []
    for day in ("day1", "day2"):
        copy = tmp_path / "in" / day / "cam" / "v.mp4"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(videos[0].read_bytes())
        rows += rows_of(copy, {number: [LabelledObject(day, 1, 2, 3, 4, 5)] for number in range(FRAMES)})
    export_objects(rows, kind, tmp_path / "out")
    back = imported([tmp_path / "out"], tmp_path / "in")
    assert {(row.path.parts[-3], item.name) for row in back for item in row.objects} == {("day1",) * 2, ("day2",) * 2}


@pytest.mark.parametrize("kind", ["mot", "cvat"])
def test_folders_whose_joined_names_are_alike_get_files_of_their_own(kind, videos, tmp_path):
    rows, names = [], ["day/1_rec", "day/rec", "day_1/rec"]
    for name in names:
        copy = tmp_path / f"in/{name}.mp4"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(videos[0].read_bytes())
        rows += rows_of(copy, {0: [LabelledObject(name, 1, 2, 3, 4, 5)]})
    export_objects(rows, kind, tmp_path / "out")
    back = imported([tmp_path / "out"], tmp_path / "in")
    objects = {(row.path, item.name) for row in back for item in row.objects}
    assert objects == {(tmp_path / f"in/{name}.mp4", name) for name in names}


def test_names_that_differ_in_case_or_suffix_alone_are_refused():
    for names in (("A.mp4", "a.mp4"), ("a.mp4", "a.mkv")):
        with pytest.raises(DataError, match="rename them"):
            names_in_folder({name: Path("/videos", name) for name in names})


@pytest.mark.parametrize("kind", ["coco", "mot", "cvat"])
def test_a_place_that_cannot_be_written_is_named(kind, videos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FinetuneError, match="cannot be written"):
        export_objects(rows_of(videos[0], {0: [LabelledObject("car", 1, 2, 3, 4)]}), kind, tmp_path / "file" / "x")


def test_scores_of_detections_are_written_where_the_format_has_them(videos, tmp_path):
    frame = FrameObjects(str(videos[0]), 2, [LabelledObject("car", 1, 2, 3, 4)], scores=[0.75], size=(64, 48))
    lengths = {str(videos[0]): VideoLength(FRAMES, 25)}
    for kind in ("coco", "mot"):
        write_objects([frame], kind, tmp_path / kind, lengths)
        back = import_objects([tmp_path / kind], ObjectImportOptions(kind=kind, videos=videos[0].parent))
        assert [row.scores for row in back.rows if row.objects] == [(0.75,)]
    assert write_objects([frame], "cvat", tmp_path / "cvat", lengths).notes == [
        "CVAT's files have no scores: they are left out"
    ]


def test_a_coco_file_has_what_its_readers_ask_for(videos, tmp_path):
    rows = rows_of(
        videos[0], {2: [LabelledObject("car", 1, 2, 3, 4, 5), LabelledObject("bus", 1, 2, 3, 4, None, True)]}
    )
    export_objects(rows, "coco", tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["categories"] == [
        {"id": 1, "name": "bus", "supercategory": ""},
        {"id": 2, "name": "car", "supercategory": ""},
    ]
    assert content["images"] == [
        {"id": 1, "file_name": "rec1/frame_000002.png", "width": 64, "height": 48, "video_id": 1, "frame_index": 2}
    ]
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "track_id": 5},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1},
    ]


def test_cvat_gets_tracks_for_identities_and_images_for_boxes_without(videos, tmp_path):
    car = LabelledObject("car", 1, 2, 3, 4, 5)
    export_objects(rows_of(videos[0], {0: [car], 2: [], 4: [car]}), "cvat", tmp_path / "tracks")
    root = ElementTree.parse(tmp_path / "tracks/rec1.xml").getroot()
    assert root.findtext("meta/task/frame_filter") == "step=2" and root.findtext("meta/task/stop_frame") == "4"
    (track,) = root.iter("track")
    assert (track.get("id"), track.get("label")) == ("5", "car")
    assert [(box.get("frame"), box.get("outside"), box.get("xbr")) for box in track] == [
        ("0", "0", "4.000"),
        ("2", "1", "4.000"),
        ("4", "0", "4.000"),
    ]
    export_objects(rows_of(videos[0], {0: [car._replace(ignore=True)], 2: [car]}), "cvat", tmp_path / "ignored")
    values = [text.text for text in ElementTree.parse(tmp_path / "ignored/rec1.xml").iterfind("track/box/attribute")]
    assert values == ["true", "false"]
    export_objects(rows_of(videos[0], {3: [car._replace(track=None)]}), "cvat", tmp_path / "images")
    root = ElementTree.parse(tmp_path / "images/rec1.xml").getroot()
    assert [(image.get("id"), image.get("name"), len(image)) for image in root.iter("image")] == [
        ("3", "frame_000003", 1)
    ]


def test_videos_of_one_name_get_files_with_the_names_of_their_folders(tmp_path):
    paths = [files.make_video(tmp_path / f"videos/{day}/rec1.mp4") for day in ("day1", "day2")]
    rows = [row for path in paths for row in rows_of(path, {1: [LabelledObject("car", 1, 2, 3, 4)]})]
    written = export_objects(rows, "mot", tmp_path / "mot").files
    assert sorted({str(path.relative_to(tmp_path / "mot")) for path in written if path.name == "gt.txt"}) == [
        "day1/rec1/gt/gt.txt",
        "day2/rec1/gt/gt.txt",
    ]
    labelled = [row for row in imported([tmp_path / "mot"], tmp_path / "videos") if row.objects]
    assert [(row.path, row.frame) for row in labelled] == [(row.path, row.frame) for row in rows]
    with pytest.raises(DataError, match="gt.txt exists already, and may hold corrections"):
        export_objects(rows, "mot", tmp_path / "mot")
