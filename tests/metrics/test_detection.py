import contextlib
import io
import json

import numpy as np
import pytest

from finetune.metrics import average_precision as coco
from finetune.metrics.detection import average_precision, score_detection
from finetune.metrics.object_matching import IGNORED, INVENTED, best_score_threshold, match_objects


def objects(*rows):
    """Labels (M, 9) from rows (class, x, y, w, h) or (class, x, y, w, h, ignore)."""
    values = np.full((len(rows), 9), np.nan)
    for place, row in enumerate(rows):
        values[place, :5], values[place, 7:] = row[:5], (-1, row[5] if len(row) > 5 else 0)
    return values


def detections(*rows):
    """Detections (D, 8) from rows (class, x, y, w, h, score)."""
    return np.array([(x, y, w, h, score, code, np.nan, np.nan) for code, x, y, w, h, score in rows]).reshape(-1, 8)


def stacked(frames, *, empty):
    """Frames of different lengths as one array, filled up with the row `empty`."""
    array = np.tile(np.array(empty, dtype=float), (len(frames), max([1, *map(len, frames)]), 1))
    for place, frame in enumerate(frames):
        array[place, : len(frame)] = frame
    return array


def scored(truth, found, *, kind="detect", classes="ab", groups=None, score_threshold=None):
    truth = stacked(truth, empty=(-1, 0, 0, 0, 0, np.nan, np.nan, -1, 0))
    found = stacked(found, empty=np.zeros(8))
    task = score_detection(kind, truth, found, classes=classes, groups=groups, score_threshold=score_threshold)
    assert json.loads(json.dumps(task, allow_nan=False)) == task
    assert average_precision(truth, found) == pytest.approx(task["ap"])
    return task


def random_frames(rng):
    """True objects of all sizes, some to ignore; detections near them, doubled, of another class, or anywhere; ties."""
    num_classes, truth, found = int(rng.integers(1, 5)), [], []
    for _ in range(rng.integers(1, 12)):
        number = rng.integers(0, 7) * (rng.random() < 0.8)
        rows = np.column_stack([rng.integers(0, num_classes, number), rng.uniform(0, 200, (number, 2))])
        sizes = rng.choice([10, 30, 32, 60, 96, 150], (number, 2))
        truth.append(objects(*np.column_stack([rows, sizes, rng.random(number) < 0.15]).tolist()))
        near = np.repeat(truth[-1][: rng.integers(0, number + 1), :5], rng.integers(1, 3), axis=0)
        near[:, 1:] = np.maximum(near[:, 1:] + rng.normal(0, rng.choice([0, 3, 8]), (len(near), 4)), 1)
        other = rng.random(len(near)) < 0.2
        near[other, 0] = rng.integers(0, num_classes, other.sum())
        away = rng.uniform(1, 200, (rng.integers(0, 6), 5))
        away[:, 0] = rng.integers(0, num_classes, len(away))
        rows = np.concatenate([near, away])
        score = np.round(rng.uniform(0.05, 1, len(rows)), rng.choice([1, 4]))
        found.append(detections(*np.column_stack([rows, score])[np.argsort(-score, kind="stable")].tolist()))
    return truth, found, num_classes


def pycocotools_precision(truth, found, num_classes):
    """The interpolated precision (10, 101, K, 4) that pycocotools computes, NaN for classes without objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for annotations in (coco._true_annotations(truth), coco._detected_annotations(found)):
            sets.append(COCO())
            sets[-1].dataset = {
                "images": [{"id": frame} for frame in range(1, len(truth) + 1)],
                "categories": [{"id": code} for code in range(num_classes)],
                "annotations": annotations,
            }
            sets[-1].createIndex()
        evaluation = COCOeval(*sets, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    return np.where(precision < 0, np.nan, precision)


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 200), marks=pytest.mark.slow)])
def test_average_precision_is_that_of_pycocotools_for_all_frames_and_for_some(seeds, capfd):
    with_nan = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        truth, found, num_classes = random_frames(rng)
        kept_N = rng.random(len(truth)) < 0.6
        matches = coco.CocoMatches(truth, found, num_classes)
        wanted = pycocotools_precision(truth, found, num_classes)
        np.testing.assert_allclose(matches.precision(), wanted, rtol=0, atol=1e-12)
        with_nan += np.isnan(wanted).any()
        if kept_N.any():
            some = [[frame for frame, kept in zip(frames, kept_N, strict=True) if kept] for frames in (truth, found)]
            wanted = pycocotools_precision(*some, num_classes)
            np.testing.assert_allclose(matches.precision(kept_N), wanted, rtol=0, atol=1e-12)
        everything = scored(truth, found, classes="abcd"[:num_classes])
        assert everything["ap"] is None or 0 <= everything["ap"] <= 1
    assert 0 < with_nan < len(seeds)
    assert capfd.readouterr() == ("", "")


def test_figures_worked_by_hand():
    truth = [objects((0, 0, 0, 20, 20), (1, 50, 50, 100, 100)), objects((0, 0, 0, 20, 20))]
    found = [
        detections((0, 0, 0, 20, 20, 0.9), (0, 50, 50, 100, 100, 0.8), (1, 200, 0, 50, 50, 0.7)),
        detections((0, 0, 0, 20, 10, 0.6)),
    ]
    task = scored(truth, found, score_threshold=0.65)
    # a: found, invented, and at IoU 0.5 found: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    assert task["per_class"][0]["ap50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert task["per_class"][0]["ap"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101 / 10 + 9 * 51 / 101 / 10)
    assert (task["per_class"][1]["ap"], task["ap50"]) == (0, pytest.approx(task["per_class"][0]["ap50"] / 2))
    assert (task["ap_medium"], task["ap_medium_ci"]) == (None, None)
    assert (task["ap_large"], task["ap_small"]) == (0, pytest.approx((1 + 9 * 51 / 101) / 10))
    # rows true, columns detected: a, b, missed; a, b, invented
    assert task["confusion"] == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert (task["precision"], task["recall"], task["f1"]) == (1 / 3, 1 / 3, 1 / 3)
    assert task["per_class"][0] | {"class": "a", "support": 2, "precision": 0.5, "recall": 0.5} == task["per_class"][0]
    assert (task["num_rows"], task["num_objects"], task["num_detections"]) == (2, 3, 3)
    assert (task["score_threshold"], task["score_threshold_from"]) == (0.65, "val")


def test_sizes_are_areas_in_pixels_of_the_video():
    truth = [objects((0, 0, 0, 32, 31), (0, 100, 0, 40, 40), (0, 200, 200, 97, 97))]
    found = [detections((0, 0, 0, 32, 31, 0.9), (0, 100, 0, 40, 40, 0.8))]
    task = scored(truth, found, classes="a")
    assert (task["ap_small"], task["ap_medium"], task["ap_large"]) == (1, 1, 0)


def test_detections_of_objects_to_ignore_count_neither_as_found_nor_as_invented():
    truth = [objects((0, 0, 0, 20, 20), (0, 100, 100, 100, 100, 1))]
    inside = [(0, 110 + 20 * place, 110, 15, 15, 0.9) for place in range(3)]
    task = scored(truth, [detections(*inside, (0, 0, 0, 20, 20, 0.5))], classes="a", score_threshold=0.1)
    assert (task["ap"], task["confusion"], task["num_objects"], task["num_detections"]) == (1, [[1, 0], [0, 0]], 1, 1)
    other = scored(truth, [detections(*[(1, *row[1:]) for row in inside])], score_threshold=0.1)
    assert other["confusion"] == [[0, 0, 1], [0, 0, 0], [0, 3, 0]]


def test_the_better_detection_of_its_class_takes_an_object_before_others():
    (truth,) = [objects((0, 0, 0, 20, 20), (1, 2, 0, 20, 20))]
    found = detections((1, 0, 0, 20, 20, 0.9), (0, 0, 0, 20, 20, 0.8), (0, 0, 0, 20, 20, 0.7), (1, 90, 0, 9, 9, 0.6))
    assert match_objects(truth, found).tolist() == [1, 0, INVENTED, INVENTED]
    assert match_objects(truth[:1], found).tolist() == [INVENTED, 0, INVENTED, INVENTED]
    assert match_objects(truth[1:], found).tolist() == [0, INVENTED, INVENTED, INVENTED]
    assert match_objects(truth[1:], found[1:]).tolist() == [0, INVENTED, INVENTED]
    assert match_objects(truth[1:], found[1:], same_class=True).tolist() == [INVENTED] * 3
    ignored = truth.copy()
    ignored[:, 8] = 1
    assert match_objects(ignored, found).tolist() == [IGNORED, IGNORED, IGNORED, INVENTED]


def test_the_score_threshold_is_where_f1_is_highest():
    truth = [objects((0, 0, 0, 20, 20)), objects((0, 0, 0, 20, 20)), objects((0, 0, 0, 20, 20))]
    here, away = (0, 0, 0, 20, 20), (0, 100, 0, 20, 20)
    found = [detections((*here, 0.9)), detections((*here, 0.8), (*away, 0.4)), detections((*away, 0.4), (*here, 0.2))]
    assert best_score_threshold(truth, found) == pytest.approx(0.6)
    task = scored(truth, found)
    assert (task["score_threshold"], task["score_threshold_from"]) == (pytest.approx(0.6), "these frames")
    assert task["f1"] == pytest.approx(2 * 2 / (2 + 3))
    for threshold in (0.1, 0.3, 0.5, 0.85):
        assert scored(truth, found, score_threshold=threshold)["f1"] <= task["f1"]


@pytest.mark.parametrize(
    ("truth", "found", "ap"),
    [
        ([objects()], [detections()], None),
        ([objects()], [detections((0, 0, 0, 9, 9, 0.5))], None),
        ([objects((0, 0, 0, 9, 9))], [detections()], 0),
        ([objects((0, 0, 0, 9, 9, 1))], [detections((0, 0, 0, 9, 9, 0.5))], None),
        ([objects((1, 0, 0, 9, 9))], [detections((1, 0, 0, 9, 9, 0.5))], 1),
        ([objects((0, 0, 0, 0, 0))], [detections((0, 0, 0, 0, 0, 0.5))], 0),
    ],
)
@pytest.mark.parametrize("kind", ["detect", "track"])
def test_frames_without_objects_or_detections_give_none_where_nothing_can_be_measured(truth, found, ap, kind):
    for copies in (1, 3):
        task = scored(truth * copies, found * copies, kind=kind)
        assert task["ap"] == task["ap50"] == ap
        assert (task["ap_ci"] is None) == (ap is None)
        assert len(task["precision_recall"]["precision"]) == (0 if ap is None else 101)
        assert sum(map(sum, task["confusion"])) == (task["num_objects"] + task["confusion"][-1][0])
    if kind == "track":
        assert (task["motion_correlation"], task["motion_error"], task["num_motion"]) == (None, None, 0)


def test_motion_is_that_of_found_objects_where_it_is_known():
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(40):
        frame, shown = objects((0, 0, 0, 20, 20), (1, 50, 0, 20, 20)), detections((0, 0, 0, 20, 20, 0.9))
        frame[:, 5:7] = rng.normal(0, 3, (2, 2))
        shown[0, 6:8] = frame[0, 5:7] + (0.3, 0.4)
        truth.append(frame)
        found.append(shown)
    truth[3][0, 5:7] = np.nan
    task = scored(truth, found, kind="track", groups=np.arange(40) // 4)
    assert (task["motion_correlation"], task["motion_error"]) == (pytest.approx(1), pytest.approx(0.5))
    assert task["num_motion"] == 39
    assert "motion_error" not in scored(truth, found)


def test_intervals_are_over_groups_and_narrower_with_more_of_them():
    rng = np.random.default_rng(0)
    frames = [random_frames(rng)[:2] for _ in range(40)]
    truth, found = ([frame for case in frames for frame in case[place]] for place in (0, 1))
    group = np.repeat(np.arange(40), [len(case[0]) for case in frames])
    few, many, alone = (scored(truth, found, classes="abcd", groups=units) for units in (group % 5, group, None))
    for name in ("ap", "ap50", "ap_small", "recall"):
        widths = [task[f"{name}_ci"][1] - task[f"{name}_ci"][0] for task in (few, many, alone)]
        assert few[name] == many[name] and few[f"{name}_ci"][0] < few[name] < few[f"{name}_ci"][1]
        assert widths[0] > widths[1]
