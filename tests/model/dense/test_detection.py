"""torchvision's heads on the pyramid: their own losses and detections, ignored objects, and the motion branch."""

import pytest
import torch
from torchvision.models.detection import FCOS

from finetune.model.dense.detection import MOTION_UNIT, DetectionHead
from finetune.model.dense.pyramid import PyramidShape
from finetune.recipe.object_fields import MAX_DETECTIONS

SHAPE = PyramidShape(channels=64, convolutions=2, sides=(16, 8, 4), strides=(4, 8, 16), size=64)
DETECTORS = ("fcos", "retinanet")
NAN = float("nan")


def head_of(detector="fcos", motion_frames=None):
    torch.manual_seed(0)
    head = DetectionHead(SHAPE, classes=3, detector=detector, motion_frames=motion_frames)
    for parameter in head.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return head


def levels_of(clips=2, frames=1):
    torch.manual_seed(1)
    return [torch.randn(clips, frames, SHAPE.channels, side, side) for side in SHAPE.sides]


def objects(*rows):
    """Targets (M, 8): state, class, cx, cy, w, h, dx, dy."""
    return torch.tensor([*rows, (0,) * 8], dtype=torch.float32)


SMALL = (1, 2, 0.3, 0.4, 0.2, 0.25, 0.02, -0.01)
LARGE = (1, 0, 0.6, 0.6, 0.7, 0.6, NAN, NAN)


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_loss_is_that_of_torchvisions_own_detector(detector):
    head, outputs_AC = head_of(detector), head_of(detector)(levels_of())[0]
    parent = type(head.detector.head).__mro__[2]
    own = head_of(detector).detector
    own.head.__class__ = parent
    boxes = 64 * torch.tensor([[0.2, 0.275, 0.4, 0.525], [0.25, 0.3, 0.95, 0.9]])
    target = {"boxes": boxes, "labels": torch.tensor([2, 0])}
    levels = (head.anchors_per_level,) if isinstance(own, FCOS) else ()
    expected = own.compute_loss([target], head._by_name(outputs_AC[None]), [head.anchors_A4], *levels)
    losses = head.losses(outputs_AC, objects(SMALL, LARGE))
    torch.testing.assert_close(losses["class"], expected["classification"])
    torch.testing.assert_close(losses["box"], expected["bbox_regression"] + expected.get("bbox_ctrness", 0))


@pytest.mark.parametrize("detector", DETECTORS)
def test_detections_are_those_of_torchvisions_own_detector(detector):
    head = head_of(detector)
    outputs_BAC = head(levels_of()).detach()
    per_level = head.anchors_per_level
    split = {name: list(values.split(per_level, 1)) for name, values in head._by_name(outputs_BAC).items()}
    head.detector.score_thresh, head.detector.detections_per_img = 0.02, MAX_DETECTIONS
    anchors = [list(head.anchors_A4.split(per_level))] * 2
    expected = head.detector.postprocess_detections(split, anchors, [(64, 64)] * 2)
    for detections_D8, own in zip(head.decode(outputs_BAC), expected, strict=True):
        count = len(own["scores"])
        assert count > 3 and int((detections_D8[:, 4] > 0).sum()) == count
        torch.testing.assert_close(detections_D8[:count, 4], own["scores"])
        assert detections_D8[:count, 5].long().tolist() == own["labels"].tolist()
        centres = (own["boxes"][:, :2] + own["boxes"][:, 2:]) / 128
        torch.testing.assert_close(detections_D8[:count, :2], centres, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_positions_of_an_ignored_object_count_neither_as_object_nor_as_background(detector):
    head = head_of(detector)
    outputs_AC = head(levels_of())[0].detach().requires_grad_()
    ignored = objects(SMALL, (-1, 1, *LARGE[2:]))
    sum(head.losses(outputs_AC, ignored).values()).backward()
    counted_A = outputs_AC.grad.abs().sum(1) > 0
    centres_A2 = (head.anchors_A4[:, :2] + head.anchors_A4[:, 2:]) / 128
    inside_A = (centres_A2 - torch.tensor([0.6, 0.6])).abs() < torch.tensor([0.35, 0.3])
    in_small_A = ((centres_A2 - torch.tensor([0.3, 0.4])).abs() < torch.tensor([0.1, 0.125])).all(1)
    assert not counted_A[inside_A.all(1) & ~in_small_A].all()
    assert counted_A[~inside_A.all(1)].float().mean() > 0.9


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_frame_without_objects_has_a_loss_of_background_alone(detector):
    head = head_of(detector, motion_frames=3)
    losses = head.losses(head(levels_of(frames=3))[0], torch.zeros(4, 8))
    assert losses["class"] > 0 and losses["box"] == 0 and losses["motion"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in head.parameters())


def test_objects_of_unknown_motion_add_no_loss_of_motion():
    head = head_of(motion_frames=3)
    outputs_AC = head(levels_of(frames=3))[0]
    assert head.losses(outputs_AC, objects(LARGE))["motion"] == 0
    both, small = (head.losses(outputs_AC, objects(*rows))["motion"] for rows in ((SMALL, LARGE), (SMALL,)))
    assert both > 0 and small > 0


def test_motion_is_read_from_all_frames_and_boxes_from_the_middle_one():
    head, levels = head_of(motion_frames=3), levels_of(frames=3)
    before = head(levels)
    levels[0][:, 0] += 1
    after = head(levels)
    assert torch.equal(before[:, :, :8], after[:, :, :8]) and not torch.equal(before[:, :, 8:], after[:, :, 8:])


def test_detected_motion_is_that_of_its_own_anchor():
    head = head_of(motion_frames=3)
    outputs_BAC = head(levels_of(frames=3)).detach()
    outputs_BAC[..., 8:] = torch.arange(outputs_BAC.shape[1])[None, :, None]  # the number of the anchor
    for detections_D8, outputs_AC in zip(head.decode(outputs_BAC), outputs_BAC, strict=True):
        anchor = int(detections_D8[0, 6] / MOTION_UNIT + 0.5)
        scores_K = (outputs_AC[anchor, :3].sigmoid() * outputs_AC[anchor, 7].sigmoid()).sqrt()
        assert float(scores_K.max()) == pytest.approx(float(detections_D8[0, 4]))
