"""What is exported to a tool is imported again as the same events, to the resolution of its format."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from grey import make_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.annotations.annotation import Annotation
from finetune.annotations.export_files import default_output, export_events
from finetune.annotations.formats import WRITERS
from finetune.annotations.import_files import Imported, ImportOptions, import_annotations
from finetune.errors import DataError

RESOLUTION = {"label-studio": 0.02, "csv": 1e-6, "audacity": 1e-6, "activitynet": 0}  # in seconds; others: 0.001
LABELS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6)
TIMES = st.lists(st.integers(0, 3999), min_size=2, max_size=8, unique=True)  # in milliseconds


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two recordings of 4 seconds in two folders, at 25 frames per second."""
    folder = tmp_path_factory.mktemp("videos")
    return [make_clip(folder / name, 100, step=1) for name in ("day 1/rec1.mp4", "day 2/rec2.mp4")]


@st.composite
def events_of_a_recording(draw):
    """(label, start, end) in seconds; they do not overlap, as those of a model with one class at a time."""
    times = sorted(draw(TIMES))
    return [(draw(LABELS), start / 1000, end / 1000) for start, end in zip(times[::2], times[1::2], strict=False)]


def exported(events, kind, out):
    return export_events(Imported(events, [], []), kind, out).files


def imported(files, folder):
    result = import_annotations(files, ImportOptions(videos=folder, point_seconds=0))
    assert result.problems == []
    return sorted((path.name, row.start or 0, row.end, row.label, row.score) for path, row in result.rows)


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.tuples(events_of_a_recording(), events_of_a_recording()), score=st.sampled_from([None, 0.25]))
def test_exported_events_come_back(kind, events, score, videos, tmp_path_factory):
    rows = [
        (path, Annotation("", label, start, end, score=score))
        for path, of_path in zip(videos, events, strict=True)
        for label, start, end in of_path
    ]
    folder = tmp_path_factory.mktemp("out")
    back = imported(exported(rows, kind, default_output(folder / "events.csv", kind)), videos[0].parent.parent)
    wanted = sorted((path.name, row.start, row.end, row.label, score) for path, row in rows)
    tolerance = RESOLUTION.get(kind, 0.0005)
    assert len(back) == len(wanted)
    for (name, start, end, label, score_back), (name_0, start_0, end_0, label_0, score_0) in zip(
        back, wanted, strict=True
    ):
        assert (name, label) == (name_0, label_0)
        assert start == pytest.approx(start_0, abs=tolerance + 1e-9)
        shortest = start + 0.08 if kind == "label-studio" else 0  # two frames; one is a point
        assert end == pytest.approx(max(end_0, shortest), abs=tolerance + 1e-9)
        if kind in {"csv", "activitynet", "label-studio"}:
            assert score_back == score_0


@pytest.mark.parametrize("kind", ["csv", "elan", "activitynet", "audacity", "vtt"])
def test_events_that_overlap_come_back(kind, videos, tmp_path):
    rows = [
        (videos[0], Annotation("", label, start, end))
        for label, start, end in (("a", 0.0, 2.0), ("b", 1.0, 3.0), ("a", 1.5, 3.0))
    ]
    files = exported(rows, kind, default_output(tmp_path / "events.csv", kind))
    assert [row[1:4] for row in imported(files, videos[0].parent)] == [
        (0.0, 2.0, "a"),
        (1.0, 3.0, "b"),
        (1.5, 3.0, "a"),
    ]


def test_boris_joins_events_of_one_class_that_overlap_and_says_so(videos, tmp_path):
    rows = [(videos[0], Annotation("", "a", start, end)) for start, end in ((0.0, 1.0), (0.5, 2.0), (2.0, 3.0))]
    result = export_events(Imported(rows, [], []), "boris", tmp_path / "events.boris")
    assert result.notes == ["1 event joined with one of the same class that it overlaps"]
    assert [row[1:3] for row in imported(result.files, videos[0].parent)] == [(0.0, 2.0), (2.0, 3.0)]


def test_points_stay_points_and_open_ends_become_those_of_the_video(videos, tmp_path):
    rows = [(videos[0], Annotation("", "a", 1.0, 1.0)), (videos[0], Annotation("", "b", None, None))]
    for kind in WRITERS:
        back = imported(exported(rows, kind, default_output(tmp_path / f"{kind}.csv", kind)), videos[0].parent)
        assert [row[1:4] for row in back] == [(0, None if kind == "csv" else 4.0, "b"), (1.0, 1.0, "a")]


def test_a_boris_project_has_what_boris_asks_for(videos, tmp_path):
    rows = [(videos[0], Annotation("", "walk", 1.0, 2.0, score=0.5, subject="Ann"))]
    (path,) = exported(rows, "boris", tmp_path / "events.boris")
    project = json.loads(path.read_text())
    (observation,) = project["observations"].values()
    file = str(videos[0])
    assert project["project_format_version"] == "7.0" and project["subjects_conf"]["0"]["name"] == "Ann"
    assert (
        project["behaviors_conf"]["0"] | {"code": "walk", "type": "State event", "key": "1"}
        == project["behaviors_conf"]["0"]
    )
    assert observation["file"]["1"] == [file] and observation["type"] == "MEDIA"
    assert observation["media_info"]["length"] == {file: 4.0} and observation["media_info"]["fps"] == {file: 25.0}
    assert observation["events"] == [[1.0, "Ann", "walk", "", "score 0.5"], [2.0, "Ann", "walk", "", "score 0.5"]]


def test_an_elan_file_has_the_elements_of_its_schema_in_order(videos, tmp_path):
    rows = [(videos[0], Annotation("", "a & <b>", 1.0, 2.0)), (videos[0], Annotation("", "c", 0.5, 1.5))]
    (path,) = exported(rows, "elan", tmp_path / "elan")
    assert path == tmp_path / "elan/rec1.eaf"
    root = ElementTree.parse(path).getroot()
    assert [element.tag for element in root] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "LINGUISTIC_TYPE"]
    medium = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert (medium.get("MIME_TYPE"), medium.get("MEDIA_URL")) == ("video/mp4", videos[0].as_uri())
    assert [slot.get("TIME_VALUE") for slot in root.find("TIME_ORDER")] == ["500", "1000", "1500", "2000"]
    assert [tier.get("TIER_ID") for tier in root.iter("TIER")] == ["events", "events 2"]
    kinds = {element.get("LINGUISTIC_TYPE_ID") for element in root.iter("LINGUISTIC_TYPE")}
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in root.iter("TIER")} == kinds


def test_label_studio_gets_predictions_and_the_frame_rate(videos, tmp_path):
    rows = [(videos[0], Annotation("", "walk", 1.0, 2.0, score=0.5))]
    (path,) = exported(rows, "label-studio", tmp_path / "tasks.json")
    (task,) = json.loads(path.read_text())
    assert task["data"] == {"video": videos[0].as_posix(), "fps": 25.0}
    (result,) = task["predictions"][0]["result"]
    assert result["value"] == {"ranges": [{"start": 26, "end": 50}], "timelinelabels": ["walk"]}
    assert result["score"] == task["predictions"][0]["score"] == 0.5


def test_recordings_of_one_name_get_files_in_their_folders(tmp_path):
    paths = [make_clip(tmp_path / f"videos/{day}/rec.mp4", 4) for day in ("day 1", "day 2")]
    rows = [(path, Annotation("", path.parent.name, 0.0, 0.1)) for path in paths]
    for kind in ("vtt", "elan", "audacity"):
        files = exported(rows, kind, tmp_path / kind)
        assert [str(path.relative_to(tmp_path)) for path in files] == [
            f"{kind}/{day}/rec{WRITERS[kind].suffix}" for day in ("day 1", "day 2")
        ]
        back = import_annotations(files, ImportOptions(videos=tmp_path / "videos"))
        assert [(path, row.label) for path, row in back.rows] == [(path, path.parent.name) for path in paths]


def test_an_existing_file_is_not_overwritten(videos, tmp_path):
    rows = [(videos[0], Annotation("", "a", 0.0, 1.0))]
    exported(rows, "vtt", tmp_path / "out")
    (tmp_path / "out/rec1.vtt").write_text("corrected")
    with pytest.raises(DataError, match="rec1.vtt exists already, and may hold corrections"):
        exported(rows, "vtt", tmp_path / "out")
    assert (tmp_path / "out/rec1.vtt").read_text() == "corrected"


def test_default_outputs_are_beside_the_events():
    assert default_output(Path("runs/events.csv"), "elan") == Path("runs/events-elan")
    assert default_output(Path("runs/events.csv"), "boris") == Path("runs/events-boris.boris")
