"""Detection heads of torchvision on a feature pyramid, their losses and their detections, and a branch for motion.

Axes in names: B clips, T frames, A anchors of all levels, M objects, D detections.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from finetune.model.dense.pyramid import GROUPS, PyramidShape
from finetune.recipe.object_fields import DETECTION_FIELDS, MAX_DETECTIONS, MIN_SCORE

MAX_CANDIDATES = 1000  # of a frame, before overlapping ones are removed
MOTION_UNIT = 0.02  # of the picture's side, per frame: motion is predicted in this unit
MOTION_WIDTH = 16  # channels of each frame in the motion branch
RETINANET_SCALES = (3, 3.8, 4.8)  # sides of RetinaNet's anchors, in strides; torchvision's are 4, 5, 6.3
RETINANET_RATIOS = (0.5, 1.0, 2.0)


class DetectionHead(nn.Module):
    """torchvision's detection head on the maps of the middle frame: [(B, T, W, h, w)] to outputs (B, A, C).

    For each anchor: K class logits, 4 numbers that encode the box, FCOS's centerness, and with `motion_frames`, the
    number T of frames, motion (dx, dy). Anchors, matching, the box code and the loss are torchvision's own.
    """

    anchors_A4: Tensor  # left, top, right, bottom in pixels of the model's picture

    def __init__(self, shape: PyramidShape, *, classes: int, detector: str, motion_frames: int | None) -> None:
        super().__init__()
        self.size = shape.size
        self.detector = DETECTORS[detector](shape, classes)
        generator = self.detector.anchor_generator
        self.per_position = generator.num_anchors_per_location()[0]
        self.motion = None if motion_frames is None else MotionBranch(shape.channels, motion_frames)
        strides = [[torch.tensor(stride)] * 2 for stride in shape.strides]
        anchors = generator.grid_anchors([[side, side] for side in shape.sides], strides)
        self.anchors_per_level = [len(level) for level in anchors]
        self.register_buffer("anchors_A4", torch.cat(anchors).float(), persistent=False)
        has_centerness = detector == "fcos"
        widths = {"cls_logits": classes, "bbox_regression": 4, "bbox_ctrness": has_centerness, "motion": 2}
        self.widths = {
            name: int(width) for name, width in widths.items() if width and (name != "motion" or self.motion)
        }

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, T, W, h, w)] of each level to (B, A, C)."""
        outputs = [*self.detector.head([level[:, level.shape[1] // 2] for level in levels]).values()]
        if self.motion is not None:
            outputs.append(self.motion(levels).repeat_interleave(self.per_position, 1))
        return torch.cat(outputs, 2)

    def losses(self, outputs_AC: Tensor, targets_M8: Tensor) -> dict[str, Tensor]:
        """The losses `class`, `box` and, where it is predicted, `motion`, 0-dim each, of the outputs of one frame.

        `targets_M8` has TARGET_FIELDS. Class and box are divided by the number of the objects' anchors, as torchvision
        does; motion is the mean over those whose motion is known. Anchors matched to ignored objects, and others
        whose centre is inside of one, do not count.
        """
        targets_M8 = targets_M8[targets_M8[:, 0] != 0]
        target = {
            "labels": targets_M8[:, 1].long(),
            "boxes": self.size * _corners(targets_M8[:, 2:6]),
            "motion": targets_M8[:, 6:8] / MOTION_UNIT,
            "ignored": targets_M8[:, 0] < 0,
        }
        arguments: list[Any] = [[target], self._by_name(outputs_AC[None]), [self.anchors_A4]]
        if isinstance(self.detector, FCOS):
            arguments.append(self.anchors_per_level)
        losses = self.detector.compute_loss(*arguments)
        box = losses["bbox_regression"] + losses.get("bbox_ctrness", 0.0)
        return {"class": losses["classification"], "box": box} | (
            {"motion": losses["motion"]} if self.motion is not None else {}
        )

    def decode(self, outputs_BAC: Tensor) -> Tensor:
        """Detections (B, D, 8), DETECTION_FIELDS in fractions of the picture, best first, from outputs (B, A, C)."""
        return torch.stack([self._decode_frame(outputs_AC) for outputs_AC in outputs_BAC.float().split(1)])

    def _decode_frame(self, outputs_1AC: Tensor) -> Tensor:
        """Detections (D, 8) of one frame: as torchvision's `postprocess_detections`, which loses the motion."""
        by_name = {name: values[0] for name, values in self._by_name(outputs_1AC).items()}
        scores_AK = by_name["cls_logits"].sigmoid()
        if "bbox_ctrness" in by_name:
            scores_AK = (scores_AK * by_name["bbox_ctrness"].sigmoid()).sqrt()
        scores_P, places_P = scores_AK.flatten().topk(min(MAX_CANDIDATES, scores_AK.numel()))
        places_P = places_P[scores_P > MIN_SCORE]
        scores_P, anchors_P = scores_P[: len(places_P)], places_P // scores_AK.shape[1]
        classes_P = places_P % scores_AK.shape[1]
        boxes_P4 = self._boxes(by_name["bbox_regression"][anchors_P], self.anchors_A4[anchors_P])
        boxes_P4 = clip_boxes_to_image(boxes_P4, (self.size, self.size))
        best = batched_nms(boxes_P4, scores_P, classes_P, self.detector.nms_thresh)[:MAX_DETECTIONS]
        corners_D4 = boxes_P4[best] / self.size
        padded_D8 = outputs_1AC.new_zeros((MAX_DETECTIONS, len(DETECTION_FIELDS)))
        detections_D8 = padded_D8[: len(best)]
        detections_D8[:, :2] = (corners_D4[:, :2] + corners_D4[:, 2:]) / 2
        detections_D8[:, 2:4] = corners_D4[:, 2:] - corners_D4[:, :2]
        detections_D8[:, 4], detections_D8[:, 5] = scores_P[best], classes_P[best].float()
        detections_D8[:, 6:] = by_name["motion"][anchors_P[best]] * MOTION_UNIT if "motion" in by_name else torch.nan
        return padded_D8

    def _boxes(self, codes_P4: Tensor, anchors_P4: Tensor) -> Tensor:
        """Boxes (P, 4), corners in pixels, from their code and their anchors, (P, 4) each."""
        if isinstance(self.detector, FCOS):
            return self.detector.box_coder.decode(codes_P4, anchors_P4)
        return self.detector.box_coder.decode_single(codes_P4, anchors_P4)

    def _by_name(self, outputs_BAC: Tensor) -> dict[str, Tensor]:
        parts = outputs_BAC.split([*self.widths.values()], 2)
        return dict(zip(self.widths, parts, strict=True))


class MotionBranch(nn.Module):
    """Motion at each position from the maps of all T frames: [(B, T, W, h, w)] to (B, positions of all levels, 2).

    Motion is (dx, dy) of one frame, in units of MOTION_UNIT. Levels share the weights.
    """

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, MOTION_WIDTH, 1)
        layers: list[nn.Module] = []
        for width in (num_frames * MOTION_WIDTH, channels):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.GroupNorm(GROUPS, channels), nn.ReLU()]
        self.compare = nn.Sequential(*layers, nn.Conv2d(channels, 2, 3, padding=1))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[(B, T, W, h, w)] of each level to (B, positions, 2)."""
        motion = []
        for level in levels:
            frames = self.reduce(level.flatten(0, 1)).unflatten(0, level.shape[:2])
            motion.append(self.compare(frames.flatten(1, 2)).flatten(2).transpose(1, 2))
        return torch.cat(motion, 1)


class _CountedLosses:
    """Losses of torchvision's heads for one frame, without anchors of ignored objects, and with the loss of motion."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """As torchvision's own, of one frame: the anchors (A, 4), and the object of each anchor or below 0, (A,)."""
        (target,), (anchors_A4,), (matched_A,) = targets, anchors, matched_idxs
        counted_A = _counted(target, anchors_A4, matched_A)
        outputs = {name: values[:, counted_A] for name, values in head_outputs.items()}
        matched_A = matched_A[counted_A]
        losses = super().compute_loss([target], outputs, [anchors_A4[counted_A]], [matched_A])  # type: ignore[misc]
        if "motion" in outputs:
            motion_P2 = outputs["motion"][0, matched_A >= 0]
            truth_P2 = target["motion"][matched_A[matched_A >= 0]]
            known_P = truth_P2.isfinite().all(1)
            distances = F.smooth_l1_loss(motion_P2[known_P], truth_P2[known_P], reduction="sum")
            losses["motion"] = distances / max(1, 2 * int(known_P.sum()))
        return losses


def _counted(target: dict[str, Tensor], anchors_A4: Tensor, matched_A: Tensor) -> Tensor:
    """Which anchors count, bool (A,): not those of ignored objects, and not others with their centre in one."""
    counted_A = torch.ones_like(matched_A, dtype=torch.bool)
    if not target["ignored"].any():
        return counted_A
    ignored_I4 = target["boxes"][target["ignored"]]
    centres_A12 = ((anchors_A4[:, :2] + anchors_A4[:, 2:]) / 2)[:, None]
    inside_A = ((centres_A12 > ignored_I4[:, :2]) & (centres_A12 < ignored_I4[:, 2:])).all(2).any(1)
    return torch.where(matched_A < 0, ~inside_A, ~target["ignored"][matched_A.clamp_min(0)])


class _FCOSHead(_CountedLosses, FCOSHead):
    pass


class _RetinaNetHead(_CountedLosses, RetinaNetHead):
    pass


def _fcos(shape: PyramidShape, classes: int) -> FCOS:
    """FCOS (arXiv:1904.01355), one anchor of the stride's size for each position."""
    head = _FCOSHead(shape.channels, 1, classes, shape.convolutions)
    nn.init.ones_(head.regression_head.bbox_reg.bias)  # boxes of two strides, as a box of no size has no gradient
    anchors = AnchorGenerator(tuple((stride,) for stride in shape.strides), ((1.0,),) * len(shape.strides))
    return FCOS(_no_backbone(shape), classes, anchor_generator=anchors, head=head)


def _retinanet(shape: PyramidShape, classes: int) -> RetinaNet:
    """RetinaNet (arXiv:1708.02002), with anchors of three sizes and three shapes for each position."""
    sizes = tuple(tuple(round(stride * scale) for scale in RETINANET_SCALES) for stride in shape.strides)
    anchors = AnchorGenerator(sizes, (RETINANET_RATIOS,) * len(sizes))
    per_position = anchors.num_anchors_per_location()[0]
    head = _RetinaNetHead(shape.channels, per_position, classes, norm_layer=partial(nn.GroupNorm, GROUPS))
    for branch in (head.classification_head, head.regression_head):
        branch.conv = branch.conv[: shape.convolutions]
    return RetinaNet(_no_backbone(shape), classes, anchor_generator=anchors, head=head)


def _no_backbone(shape: PyramidShape) -> nn.Module:
    """In the place of a backbone, as the pyramid's maps go to the head alone."""
    nothing = nn.Identity()
    nothing.out_channels = shape.channels  # type: ignore[assignment]
    return nothing


def _corners(boxes_M4: Tensor) -> Tensor:
    """(centre x, centre y, width, height) to (left, top, right, bottom), (M, 4)."""
    return torch.cat([boxes_M4[:, :2] - boxes_M4[:, 2:] / 2, boxes_M4[:, :2] + boxes_M4[:, 2:] / 2], 1)


DETECTORS: dict[str, Callable[[PyramidShape, int], Any]] = {"fcos": _fcos, "retinanet": _retinanet}
