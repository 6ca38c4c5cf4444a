import json

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from finetune.metrics.boxes import box_iou_pairs, score_box

SQUARE = np.array([[10.0, 20.0, 40.0, 40.0]])


def drawn(num_rows=200, off=8.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.column_stack([rng.uniform(0, 200, (num_rows, 2)), rng.uniform(5, 60, (num_rows, 2))])
    said = truth + rng.normal(0, off, truth.shape)
    return truth, np.column_stack([said[:, :2], np.maximum(said[:, 2:], 1)])


def corners(boxes):
    return torch.from_numpy(np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))


def test_overlap_is_that_of_torchvision():
    truth, said = drawn()
    wanted = box_iou(corners(truth), corners(said)).diagonal().numpy()
    assert (wanted > 0).sum() > 100 and (wanted == 0).any()
    assert box_iou_pairs(truth, said) == pytest.approx(wanted)
    assert box_iou_pairs(truth.astype(np.float32), said.astype(np.float32)) == pytest.approx(wanted, abs=1e-4)


def test_boxes_worked_by_hand():
    said = [[10, 20, 40, 40], [30, 20, 40, 40], [10, 20, 20, 40], [50, 20, 40, 40], [100, 100, 4, 4]]
    overlap = box_iou_pairs(np.repeat(SQUARE, 5, axis=0), np.array(said, dtype=float))
    assert overlap == pytest.approx([1, 1 / 3, 1 / 2, 0, 0])


@pytest.mark.parametrize("size", [(0, 40), (40, 0), (-40, -40), (-40, 40), (np.nan, 40)])
def test_a_box_without_area_overlaps_with_nothing(size):
    flat = np.array([[10.0, 20.0, *size]])
    assert box_iou_pairs(SQUARE, flat).tolist() == [0]
    assert box_iou_pairs(flat, SQUARE).tolist() == [0]
    assert box_iou_pairs(flat, flat).tolist() == [0]


def test_figures_are_those_of_the_rows():
    truth, said = drawn()
    groups = np.arange(200) // 10
    task = score_box(truth, said, groups=groups, mean_box=truth.mean(0).tolist())
    overlap = box_iou_pairs(truth, said)
    centers = [boxes[:, :2] + boxes[:, 2:] / 2 for boxes in (truth, said)]
    assert task["mean_iou"] == overlap.mean()
    assert (task["ap50"], task["ap75"]) == ((overlap >= 0.5).mean(), (overlap >= 0.75).mean())
    assert task["center_error"] == pytest.approx(np.linalg.norm(centers[0] - centers[1], axis=1).mean())
    for name in ("mean_iou", "ap50", "ap75", "center_error"):
        assert task[f"{name}_ci"][0] < task[name] < task[f"{name}_ci"][1]
    always = np.repeat(truth.mean(0)[None], 200, axis=0)
    assert task["baseline"] == {"mean_iou": pytest.approx(box_iou_pairs(truth, always).mean())}
    assert sum(task["histogram"]["counts"]) == task["num_rows"] == 200
    assert (task["histogram"]["edges"][0], task["histogram"]["edges"][-1]) == (0, 1)


def test_a_half_overlap_counts_at_a_half():
    half = np.array([[10.0, 20.0, 20.0, 40.0]])
    task = score_box(np.repeat(SQUARE, 2, axis=0), np.concatenate([half, SQUARE]), groups=None, mean_box=None)
    assert (task["mean_iou"], task["ap50"], task["ap75"], task["center_error"]) == (0.75, 1, 0.5, 5)
    assert (task["histogram"]["counts"][10], task["histogram"]["counts"][-1]) == (1, 1)
    assert "baseline" not in task


def test_one_clip_leaves_nearly_all_open():
    task = score_box(SQUARE, SQUARE, groups=np.array(["one"]), mean_box=None)
    assert task["mean_iou"] == 1
    assert task["mean_iou_ci"][0] < 0.3
    assert (task["center_error"], task["center_error_ci"]) == (0, None)
    assert json.loads(json.dumps(task, allow_nan=False)) == task
