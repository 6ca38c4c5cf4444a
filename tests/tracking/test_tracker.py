import numpy as np
import pytest

from finetune.metrics.boxes import box_iou_matrix
from finetune.tracking.tracker import LOOKAHEAD, MAX_LOST_FRAMES, NO_TRACK, track_frames

NO_MOTION = (np.nan, np.nan)


def detection(x, y=50.0, *, score=0.9, name=0, motion=NO_MOTION, side=20.0):
    return [x, y, side, side, score, name, *motion]


def frame_of(*detections):
    return np.array(detections, dtype=np.float64).reshape(-1, 8)


def identities(frames, numbers=None, **options):
    """The identities of each frame as a list; frames are lists of detections."""
    numbers = range(len(frames)) if numbers is None else numbers
    numbered = ((number, frame_of(*frame)) for number, frame in zip(numbers, frames, strict=True))
    return [frame.tracks_D.tolist() for frame in track_frames(numbered, **options)]


def test_an_object_keeps_its_identity_while_it_moves():
    assert identities([[detection(5 * number)] for number in range(20)]) == [[0]] * 20


def test_objects_that_cross_keep_their_identities():
    frames = [[detection(4 * number), detection(160 - 4 * number, 56)] for number in range(41)]
    assert identities(frames) == [[0, 1]] * 41


def test_an_object_that_is_missed_for_a_while_keeps_its_identity():
    frames = [[detection(5 * number)] if number not in range(10, 16) else [] for number in range(25)]
    assert [frame for frame in identities(frames) if frame] == [[0]] * 19


def test_an_object_that_is_missed_for_longer_gets_a_new_identity():
    away = MAX_LOST_FRAMES + 2
    frames = [[detection(0)]] * 3 + [[]] * away + [[detection(0)]] * 3
    assert [frame for frame in identities(frames) if frame] == [[0]] * 3 + [[1]] * 3


def test_a_detection_of_a_single_frame_has_no_identity():
    frames = [[detection(0)], [detection(0), detection(200)], [detection(0)], [detection(0)]]
    assert identities(frames) == [[0], [0, NO_TRACK], [0], [0]]


def test_objects_of_the_only_frame_have_identities():
    assert identities([[detection(0), detection(100)]]) == [[0, 1]]


def test_an_object_that_appears_in_the_last_frame_has_no_identity():
    assert identities([[], [detection(0)]]) == [[], [NO_TRACK]]


def test_a_low_score_continues_a_track_but_begins_none():
    frames = [[detection(0, score=score), detection(100, score=0.3)] for score in (0.9, 0.3, 0.3, 0.9)]
    assert identities(frames) == [[0, NO_TRACK]] * 4
    assert identities(frames, score=0.25) == [[0, 1]] * 4


def test_rows_without_a_detection_have_no_identity():
    assert identities([[detection(0), [0.0] * 8]] * 3) == [[0, NO_TRACK]] * 3


def test_a_class_that_changes_for_a_frame_keeps_the_identity():
    frames = [[detection(2 * number, name=int(number == 4))] for number in range(8)]
    assert identities(frames) == [[0]] * 8


def test_an_object_prefers_the_track_of_its_class():
    frames = [[detection(0, name=0), detection(8, name=1)], [detection(5, name=1), detection(4, name=0)]]
    assert identities(frames) == [[0, 1], [1, 0]]


def test_an_object_detected_as_two_classes_is_one_track():
    frames = [[detection(number, name=0), detection(number + 1, name=1, score=0.6)] for number in range(4)]
    assert identities(frames) == [[0, NO_TRACK]] * 4


@pytest.mark.parametrize("speed", [25.0, -25.0])
def test_predicted_motion_follows_an_object_that_leaves_its_box_in_one_frame(speed):
    without = identities([[detection(300 + speed * number)] for number in range(6)])
    assert without == [[0], *[[NO_TRACK]] * 5]
    moving = [[detection(300 + speed * number, motion=(speed, 0.0))] for number in range(6)]
    assert identities(moving) == [[0]] * 6


def test_frames_may_be_left_out():
    frames = [[detection(2.0 * number)] for number in range(0, 60, 5)]
    assert identities(frames, numbers=range(0, 60, 5)) == [[0]] * 12


def classes(frames):
    tracked = track_frames((number, frame_of(*frame)) for number, frame in enumerate(frames))
    return [frame.detections_D8[:, 5].tolist() for frame in tracked]


def test_detections_of_a_track_get_the_class_with_the_largest_sum_of_scores():
    names = [1, 0, 0, 1, 0, 0]
    frames = [[detection(2 * number, name=name)] for number, name in enumerate(names)]
    assert classes(frames) == [[0]] * 6
    assert frames[0][0][5] == 1, "the detections that were given stay"
    frames = [[detection(2 * number, name=name, score=0.95 - 0.4 * (name == 0))] for number, name in enumerate(names)]
    assert classes([*frames[:4], *frames[3:4]]) == [[1]] * 5


def test_a_track_keeps_the_class_of_frames_that_are_known_when_its_first_one_is_given():
    frames = [[detection(number, name=int(number > LOOKAHEAD))] for number in range(4 * LOOKAHEAD)]
    given = [of_frame[0] for of_frame in classes(frames)]
    assert given[0] == 0 and given[-1] == 1
    assert given == sorted(given)


def test_tracks_that_ended_are_forgotten_and_others_keep_their_class():
    short = [detection(300.0 + 40 * (number // 2 % 5), y=10.0 * (number % 30)) for number in range(600)]
    frames = [frame_of(detection(number / 10, name=2 if number < 400 else 1), short[number]) for number in range(600)]
    tracked = list(track_frames(enumerate(frames)))
    assert len({frame.tracks_D[0] for frame in tracked}) == 1
    assert {frame.detections_D8[0, 5] for frame in tracked} == {2.0}
    assert max(int(frame.tracks_D[1]) for frame in tracked) >= 0


def test_frames_are_tracked_while_they_are_read():
    read = []

    def frames():
        for number in range(1000):
            read.append(number)
            yield number, frame_of(detection(0))

    tracked = track_frames(frames())
    assert next(tracked).frame == 0
    assert next(tracked).frame == 1
    assert len(read) == LOOKAHEAD + 2


def test_objects_with_misses_and_noise_keep_their_identities_in_most_frames():
    generator, changes, count = np.random.default_rng(0), 0, 0
    for _ in range(10):
        start_42, velocity_42 = generator.uniform(0, 300, (4, 2)), generator.uniform(-3, 3, (4, 2))
        boxes = [np.column_stack([start_42 + number * velocity_42, np.full((4, 2), 30.0)]) for number in range(50)]
        noisy = [frame_44 + generator.normal(0, 1, (4, 4)) for frame_44 in boxes]
        frames = [[[*row, 0.9, 0, *NO_MOTION] for row in frame_44 if generator.random() > 0.1] for frame_44 in noisy]
        last: dict[int, int] = {}
        for truth_44, frame, tracks in zip(boxes, frames, identities(frames), strict=True):
            nearest = box_iou_matrix(frame_of(*frame)[:, :4], truth_44).argmax(1) if frame else np.zeros(0, int)
            for object_index, track in zip(nearest.tolist(), tracks, strict=True):
                changes += last.get(object_index, track) != track
                last[object_index] = track
                count += 1
    assert count > 1500
    assert changes <= 10
