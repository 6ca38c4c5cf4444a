import json

import numpy as np
import pytest

from finetune.metrics.tracking import FrameIdentities, score_tracks, tracked_frames

BOXES = {1: (0, 0, 20, 20), 2: (100, 0, 20, 20), 3: (200, 0, 20, 20)}


def frame(true, predicted):
    """A frame from true identities, and from pairs of a predicted identity and the true one whose box it has."""
    boxes = np.array([BOXES[identity] for identity in true], dtype=float).reshape(-1, 4)
    found = np.array([BOXES[place] for _, place in predicted], dtype=float).reshape(-1, 4)
    return FrameIdentities(np.array(true, int), boxes, np.array([identity for identity, _ in predicted], int), found)


SWITCHED = [  # 1 is tracked as 10, then as 11; 2 as 20, and missed at the end; 30 is invented
    frame([1, 2], [(10, 1), (20, 2), (30, 3)]),
    frame([1, 2], [(10, 1), (20, 2)]),
    frame([1, 2], [(20, 2), (11, 1)]),
    frame([1, 2], [(11, 1)]),
]
PERFECT = [frame([1, 2], [(5, 1), (7, 2)]), frame([2], [(7, 2)]), frame([], [])]


def scored(sequences, groups=None):
    task = score_tracks(sequences, groups=groups or range(len(sequences)))
    assert json.loads(json.dumps(task, allow_nan=False)) == task
    return task


def test_figures_worked_by_hand():
    task = scored([SWITCHED])
    assert (task["mota"], task["idf1"], task["switches"]) == ((7 - 1 - 1) / 8, 2 * 5 / (8 + 8), 1)
    association = (2 * 2 / 4 + 2 * 2 / 4 + 3 * 3 / 4) / 7
    assert (task["deta"], task["assa"]) == (pytest.approx(7 / 9), pytest.approx(association))
    assert task["hota"] == pytest.approx((7 / 9 * association) ** 0.5)
    assert (task["num_sequences"], task["num_identities"]) == (1, 2)


def test_boxes_that_overlap_in_part_are_found_up_to_their_iou():
    boxes, shifted = np.array([[0.0, 0, 20, 20]]), np.array([[0.0, 0, 20, 12]])
    task = scored([[FrameIdentities(np.array([1]), boxes, np.array([4]), shifted)] * 3])
    assert task["deta"] == task["assa"] == task["hota"] == pytest.approx(12 / 19)  # 0.05 … 0.6
    assert (task["mota"], task["idf1"]) == (1, 1)


def test_counts_of_sequences_are_summed():
    once, twice = scored([SWITCHED]), scored([SWITCHED, SWITCHED])
    for name in ("hota", "deta", "assa", "mota", "idf1"):
        assert once[name] == pytest.approx(twice[name])
    assert twice["switches"] == 2 * once["switches"]
    mixed = scored([SWITCHED, PERFECT])
    assert mixed["mota"] == (10 - 1 - 1) / 11
    assert mixed["deta"] == pytest.approx(10 / 12)
    assert mixed["assa"] == pytest.approx((2 + 3 * 3 / 4 + 3) / 10)
    assert scored([PERFECT])["hota"] == scored([PERFECT])["mota"] == 1


@pytest.mark.parametrize(
    ("frames", "figures"),
    [
        ([frame([], [])], (None, None, None)),
        ([frame([1], [])], (0, 0, 0)),
        ([frame([], [(4, 1)])], (0, None, 0)),
        ([frame([1], [(4, 2)])], (0, -1, 0)),
        ([frame([1], [(4, 1)]), frame([], [])], (1, 1, 1)),
    ],
)
def test_sequences_without_objects_or_tracks(frames, figures):
    for sequences in ([frames], [frames] * 3):
        task = scored(sequences)
        assert (task["hota"], task["mota"], task["idf1"]) == figures


def test_intervals_are_over_groups_of_recordings():
    sequences = [SWITCHED, PERFECT] * 6
    task, grouped = scored(sequences), scored(sequences, [place // 2 for place in range(12)])
    for name in ("hota", "deta", "assa", "mota", "idf1"):
        assert task[f"{name}_ci"][0] < task[name] < task[f"{name}_ci"][1] <= 1
    assert grouped["hota_ci"] != task["hota_ci"]
    assert grouped["mota_ci"] is None  # the same without each group


def test_objects_to_ignore_and_those_without_identity_are_left_out_with_their_detections():
    labels = np.full((4, 9), np.nan)
    labels[:, 0], labels[:, 7], labels[:, 8] = (0, 0, 0, 1), (5, -1, 6, 7), (0, 0, 1, 0)
    labels[:, 1:5] = [(100 * place, 0, 20, 20) for place in range(4)]
    found = np.zeros((5, 8))
    found[:, :4] = [(100 * place, 0, 20, 20) for place in range(5)]
    found[:, 4], found[3, 5] = 0.9, 1
    identities = np.array([10, 11, 12, 13, 14])
    (first,) = tracked_frames([labels], [found], [identities], code=0)
    assert (first.true_M.tolist(), first.predicted_D.tolist()) == ([5], [10, 14])
    (second,) = tracked_frames([labels], [found], [identities], code=1)
    assert (second.true_M.tolist(), second.predicted_D.tolist()) == ([7], [13])
    (unconfirmed,) = tracked_frames([labels], [found], [np.full(5, -1)], code=0)
    assert (unconfirmed.true_M.tolist(), unconfirmed.predicted_D.tolist()) == ([5], [])


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "mota", "switches", "idf1", "hota"),
    [("TUD-Campus", 0.526462, 7, 0.557659, 0.391397), ("TUD-Stadtmitte", 0.564014, 7, 0.644619, 0.397849)],
)
def test_figures_of_real_recordings_are_those_of_other_packages(real, name, mota, switches, idf1, hota):
    true, predicted = (np.loadtxt(real / f"data/mot/{folder}/{name}.txt", delimiter=",") for folder in ("gt", "tr"))
    frames = []
    for number in range(1, int(max(true[:, 0].max(), predicted[:, 0].max())) + 1):
        parts = [rows[rows[:, 0] == number] for rows in (true, predicted)]
        frames.append(FrameIdentities(*(part for rows in parts for part in (rows[:, 1].astype(int), rows[:, 2:6]))))
    task = scored([frames])
    assert task["switches"] == switches
    assert [round(task[key], 6) for key in ("mota", "idf1", "hota")] == [mota, idf1, hota]
