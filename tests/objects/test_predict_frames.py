import numpy as np
import pytest
from objects.fake_detector import CLASSES, FakeDetector, boxes_at, write_grey
from PIL import Image

from finetune.objects.detect import frames_around, mask_in_video, read_recording
from finetune.objects.predict_frames import predict_frames
from finetune.tracking.tracker import LOOKAHEAD


def frames_of(path, detector=None, **options):
    recording = read_recording(path, image_rate=25)
    return list(predict_frames(detector or FakeDetector(), recording, CLASSES, **options))


def test_every_frame_has_its_objects_with_identities(tmp_path):
    frames = frames_of(write_grey(tmp_path / "clip.mp4"))
    assert [frame.frame for frame in frames] == list(range(20))
    assert [round(frame.seconds, 3) for frame in frames] == [round(number / 25, 3) for number in range(20)]
    for frame in frames:
        assert [(one.name, one.class_index, one.track) for one in frame.objects] == [("car", 0, 0), ("person", 1, 1)]
        assert np.allclose([one.box for one in frame.objects], boxes_at(frame.frame))


@pytest.mark.parametrize("every", [2, 5, 7, 100])
def test_objects_move_evenly_between_frames_that_are_computed(tmp_path, every):
    detector = FakeDetector()
    frames = frames_of(write_grey(tmp_path / "clip.mp4"), detector, every=every)
    assert detector.frames == sorted({*range(0, 20, every), 19})
    assert [frame.frame for frame in frames] == list(range(20))
    for frame in frames:
        assert [one.track for one in frame.objects] == [0, 1]
        assert np.allclose([one.box for one in frame.objects], boxes_at(frame.frame))


def test_an_object_that_is_missed_has_no_box_between(tmp_path):
    frames = frames_of(write_grey(tmp_path / "clip.mp4"), FakeDetector(missed=[10]), every=5)
    assert [len(frame.objects) for frame in frames] == [2] * 6 + [0] * 9 + [2] * 5
    assert {one.track for frame in frames for one in frame.objects} == {0, 1}


def test_objects_with_a_low_score_are_left_out(tmp_path):
    frames = frames_of(write_grey(tmp_path / "clip.mp4"), score=0.85)
    assert [[one.name for one in frame.objects] for frame in frames] == [["car"]] * 20


def test_an_object_that_is_also_detected_as_another_class_is_listed_once(tmp_path):
    class SeesTwice(FakeDetector):
        def __call__(self, recording, frames_W):
            for output in super().__call__(recording, frames_W):
                again_8 = output.detections_D8[0] * np.array([1, 1, 1, 1, 0.8, 1, 1, 1]) + [1, 0, 0, 0, 0, 1, 0, 0]
                yield output._replace(detections_D8=np.concatenate([output.detections_D8, again_8[None]]))

    frames = frames_of(write_grey(tmp_path / "clip.mp4"), SeesTwice())
    assert [[one.name for one in frame.objects] for frame in frames] == [["car", "person"]] * 20


def test_an_image_has_objects_without_identities(tmp_path):
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "one.png")
    (frame,) = frames_of(tmp_path / "one.png")
    assert [(one.name, one.track) for one in frame.objects] == [("car", None), ("person", None)]


def test_a_folder_of_numbered_images_is_a_recording(tmp_path):
    for number in range(4):
        Image.new("RGB", (64, 48), "grey").save(tmp_path / f"{number}.png")
    frames = frames_of(tmp_path)
    assert [frame.seconds for frame in frames] == [0, 0.04, 0.08, 0.12]
    assert [one.track for one in frames[3].objects] == [0, 1]


def test_frames_are_predicted_while_they_are_taken(tmp_path):
    detector = FakeDetector()
    recording = read_recording(write_grey(tmp_path / "clip.mp4", frames=60), image_rate=25)
    frames = predict_frames(detector, recording, CLASSES)
    next(frames)
    next(frames)
    assert len(detector.frames) == LOOKAHEAD + 2


@pytest.mark.parametrize(
    ("num_frames", "stride", "expected"),
    [
        (1, 1, [[0], [5], [9]]),
        (3, 2, [[0, 0, 2], [3, 5, 7], [7, 9, 9]]),
        (4, 1, [[0, 0, 0, 1], [3, 4, 5, 6], [7, 8, 9, 9]]),
    ],
)
def test_the_clip_of_a_frame_is_around_it_and_within_the_video(num_frames, stride, expected):
    assert frames_around(np.array([0, 5, 9]), num_frames, stride, video_frames=10).tolist() == expected


def test_a_mask_lies_where_the_models_picture_is_in_the_video():
    mask_22 = np.array([[1, 2], [3, 4]], np.uint8)
    # The model sees columns 2 to 5 of a video that is 8 wide and 4 high.
    matrix = np.array([[1 / 4, 0, -2 / 4], [0, 1 / 4, 0]])
    shown = mask_in_video(mask_22, matrix, (4, 8))
    assert shown.tolist() == [[255, 255, 1, 1, 2, 2, 255, 255]] * 2 + [[255, 255, 3, 3, 4, 4, 255, 255]] * 2
