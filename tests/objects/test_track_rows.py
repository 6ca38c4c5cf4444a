import numpy as np
import pytest
from objects.fake_detector import CLASSES, FakeDetector, boxes_at, write_grey

from finetune.data.manifest import Manifest
from finetune.data.tubes import parse_tube
from finetune.errors import DataError
from finetune.objects.detect import read_recording
from finetune.objects.predict_frames import predict_frames
from finetune.objects.track_rows import RowLengths, Track, collect_tracks, rows_of_tracks, write_track_rows

FRAMES = 20


@pytest.fixture
def recording(tmp_path):
    return read_recording(write_grey(tmp_path / "a.mp4", FRAMES), image_rate=25)


@pytest.fixture
def tracks(recording):
    return collect_tracks(predict_frames(FakeDetector(), recording, CLASSES))


def test_a_track_has_its_class_its_mean_score_and_its_boxes(tracks):
    assert [(track.number, track.name, round(track.score, 3)) for track in tracks] == [
        (0, "car", 0.9),
        (1, "person", 0.8),
    ]
    for place, track in enumerate(tracks):
        assert track.frames_K.tolist() == list(range(FRAMES))
        assert np.allclose(track.boxes_K4, [boxes_at(frame)[place] for frame in range(FRAMES)])


def test_a_track_is_one_row_of_few_keyframes_that_hold_all_its_boxes(recording, tracks):
    rows = list(rows_of_tracks(recording, tracks))
    assert [(row.first, row.last, row.clip.interval) for row in rows] == [(0, FRAMES - 1, (0.0, 0.8))] * 2
    for place, row in enumerate(rows):
        tube = parse_tube(row.clip.boxes)
        assert tube.frames_K.tolist() == [0, FRAMES - 1]
        assert np.allclose(tube.boxes_at(np.arange(FRAMES)), [boxes_at(frame)[place] for frame in range(FRAMES)])


def test_a_turn_becomes_a_keyframe(recording):
    lefts = [*range(10), *range(8, -2, -1)]
    boxes = np.array([[left * 4.0, 0, 40, 30] for left in lefts])
    (row, *_) = rows_of_tracks(recording, [Track(0, "car", 0.9, np.arange(FRAMES), boxes)])
    assert 9 in parse_tube(row.clip.boxes).frames_K


def test_long_tracks_are_cut_into_windows_and_what_is_shorter_than_the_least_is_left_out(recording, tracks):
    rows = list(rows_of_tracks(recording, tracks[:1], RowLengths(min_seconds=0.2, window=0.36)))
    assert [(row.first, row.last) for row in rows] == [(0, 8), (9, 17)]
    assert rows[1].clip.interval == (0.34, 0.7)
    assert not list(rows_of_tracks(recording, tracks, RowLengths(min_seconds=1)))


def test_boxes_are_cut_off_at_the_edge_of_the_picture_and_left_out_beyond_it(recording):
    boxes = np.array([[20.0 - 10 * frame, 100, 40, 40] for frame in range(FRAMES)])
    (row,) = rows_of_tracks(recording, [Track(0, "car", 0.9, np.arange(FRAMES), boxes)], RowLengths(0.1))
    assert (row.first, row.last) == (0, 5)  # its right edge is 10 pixels from the left edge of the picture
    assert parse_tube(row.clip.boxes).boxes_at(np.array([0, 5])).tolist() == [[20, 100, 40, 20], [0, 100, 10, 20]]


def test_the_written_rows_are_a_manifest_once_they_have_labels(recording, tracks, tmp_path):
    rows = list(rows_of_tracks(recording, tracks))
    write_track_rows(tmp_path / "tubes.csv", rows)
    assert (tmp_path / "tubes.csv").read_text().splitlines()[0] == "path,start,end,boxes,label,object,track,score"
    with pytest.raises(DataError, match="no label in line 2, 3"):
        Manifest.from_csv(tmp_path / "tubes.csv")
    write_track_rows(tmp_path / "labelled.csv", rows, label_by_object=True)
    manifest = Manifest.from_csv(tmp_path / "labelled.csv", whole=True)
    assert [manifest.label(row) for row in range(2)] == ["car", "person"]
    assert [manifest.boxes_cell(row) for row in range(2)] == [row.clip.boxes for row in rows]
