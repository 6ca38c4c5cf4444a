"""The frames with most errors are found, and drawn with their labels and predictions side by side."""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.test_object_results import perfect
from framed import CLASSES, draw_labelled_videos, tasks_of

from finetune.data.manifest import Manifest
from finetune.evaluation.frame_pictures import draw_worst_frames
from finetune.evaluation.object_results import ShownDetections
from finetune.evaluation.task_results import TaskPredictions
from finetune.evaluation.worst_frames import MIN_PER_FILE, worst_frames
from finetune.recipe.schema import Clip
from finetune.video.dataset import ClipDataset


@pytest.fixture
def tested(tmp_path):
    path = draw_labelled_videos(tmp_path, train=2)
    return Manifest.from_csv(path, tasks=tasks_of("tracks", "pixels")).for_split("train")


def detected(tested, detections, threshold=0.5):
    rows = np.arange(len(tested))
    return TaskPredictions(rows, detections, shown=ShownDetections(threshold, True, None))


def test_a_frame_whose_objects_are_all_found_is_no_error(tested):
    assert worst_frames(tested.tasks["tracks"], detected(tested, perfect(tested)), tested) == []


def test_missed_objects_and_wrong_classes_are_errors_and_ignored_scores_are_not(tested):
    detections = perfect(tested)
    detections[0, :, 4] = 0.4  # below the threshold: all missed
    detections[1, 0, 5] = 1 - detections[1, 0, 5]  # another class
    first, second = worst_frames(tested.tasks["tracks"], detected(tested, detections), tested)
    assert {first.row, second.row} == {0, 1}
    texts = {frame.row: frame.text for frame in (first, second)}
    assert texts[0] == "2 of 2 objects missed, 0 wrong detections"
    assert texts[1] == "1 of 2 objects missed, 1 wrong detection"


def test_pictures_show_the_labels_and_what_was_predicted(tested):
    detections = perfect(tested)
    detections[:, :, 4] = 0.0
    masks = {"pixels": np.zeros((len(tested), 64, 64), np.uint8)}
    counts = np.zeros((len(tested), len(CLASSES) ** 2 + 2))
    counts[:, :2] = 50, 30
    predictions = {
        "tracks": detected(tested, detections),
        "pixels": TaskPredictions(np.arange(len(tested)), counts),
    }
    dataset = ClipDataset(tested, "train", clip=Clip(num_frames=3, sampling="around", size=64), views=1)
    drawn = list(draw_worst_frames(dataset, tested, predictions, masks))
    of_tracks, of_pixels = ([frame for frame in drawn if frame.task == task] for task in ("tracks", "pixels"))
    assert of_tracks[0].text == "2 of 2 objects missed, 0 wrong detections"
    assert of_pixels[0].text.startswith("mean IoU ")
    assert all(frame.jpeg.startswith(b"\xff\xd8\xff") for frame in drawn)
    assert len({frame.path for frame in of_tracks}) == len(of_tracks)


def test_few_frames_of_each_file_are_chosen():
    number, files = 40, 20
    tested = SimpleNamespace(paths=np.arange(number) // 2 % files)
    labels = SimpleNamespace(kind="segment", known=np.ones(number, bool))
    counts = np.tile([5.0, 5.0, 0.0, 5.0, 0.0, 0.0], (number, 1))
    chosen = worst_frames(labels, TaskPredictions(np.arange(number), counts), tested)
    of_files = np.bincount([tested.paths[frame.row] for frame in chosen])
    assert (len(chosen), of_files.max()) == (12, MIN_PER_FILE)
