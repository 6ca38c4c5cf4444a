"""Metrics of tracks: HOTA, MOTA, IDF1 and identity switches, with 95 % intervals over groups of recordings.

They are those of TrackEval, with its way of adding up sequences: counts are summed. One sequence is the objects of one
class in one recording. Sources: HOTA (Luiten et al. 2021, arXiv:2009.07736); MOTA and switches, CLEAR MOT (Bernardin
and Stiefelhagen 2008); IDF1 (Ristani et al. 2016, arXiv:1609.01775).

Suffixes: M true objects and D predicted ones of a frame, G true and P predicted identities of a sequence, A thresholds
of HOTA, Q sequences, F counts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from finetune.metrics.boxes import box_iou_matrix
from finetune.metrics.intervals import JackknifeUnits, jackknife_units, proportion_interval, transformed_interval
from finetune.metrics.object_matching import IGNORED, match_objects
from finetune.recipe.object_fields import DETECTION_FIELDS, LABEL_FIELDS

HOTA_IOUS = np.arange(1, 20) / 20  # 0.05, 0.1 … 0.95
MATCH_IOU = 0.5  # of MOTA, IDF1 and switches
FIGURES = ("hota", "deta", "assa", "mota", "idf1")
_EPSILON = np.finfo(float).eps
_TRACK, _IGNORE, _CLASS = (LABEL_FIELDS.index(name) for name in ("track", "ignore", "class"))
_DETECTED_CLASS = DETECTION_FIELDS.index("class")


class FrameIdentities(NamedTuple):
    """Identities (M,) and boxes (M, 4) of the true objects of a frame; (D,) and (D, 4) of the predicted ones.

    Boxes are x, y, width, height; no identity occurs twice.
    """

    true_M: np.ndarray
    boxes_M4: np.ndarray
    predicted_D: np.ndarray
    boxes_D4: np.ndarray


def score_tracks(sequences: Sequence[Sequence[FrameIdentities]], *, groups: Sequence[Any]) -> dict[str, Any]:
    """Metrics of at least one sequence, `groups` (Q,) are their groups or recordings.

    `hota`, `deta` and `assa` are means over the IoUs HOTA_IOUS, as in TrackEval; `mota`, `idf1` and `switches` are at
    MATCH_IOU. All are None where there is neither a true nor a predicted object; `mota` also without true ones.
    """
    counts_QF = np.array([_sequence_counts(sequence) for sequence in sequences])
    figures, unit_Q = _figures(counts_QF.sum(0)), np.unique(np.asarray(groups), return_inverse=True)[1]
    left_out = [_figures(counts_QF[unit_Q != unit].sum(0)) for unit in range(unit_Q.max() + 1)]
    boxes = [
        np.unique(np.concatenate([frame.true_M for frame in frames]), return_counts=True)[1] for frames in sequences
    ]
    units = _identity_units(boxes, unit_Q)
    task: dict[str, Any] = {}
    for name, value in figures.items():
        left_out_U = np.array([rest[name] for rest in left_out], dtype=float)
        task |= {name: value, f"{name}_ci": _interval(name, value, left_out_U, units)}
    switches = int(counts_QF[:, _SWITCHES].sum())
    return task | {"switches": switches, "num_sequences": len(sequences), "num_identities": sum(map(len, boxes))}


def _identity_units(boxes: Sequence[np.ndarray], unit_Q: np.ndarray) -> JackknifeUnits | None:
    """Units of true identities, each with the weight of its `boxes`; None without any.

    Each sequence also enters with weight 0, so that no unit is lost.
    """
    sequences = np.arange(len(boxes))
    sequence_E = np.append(np.repeat(sequences, list(map(len, boxes))), sequences)
    weights_E = np.concatenate([*boxes, np.zeros(len(boxes))])
    return jackknife_units(unit_Q[sequence_E], len(sequence_E), weights_N=weights_E) if weights_E.any() else None


def _interval(
    name: str, value: float | None, left_out_U: np.ndarray, units: JackknifeUnits | None
) -> list[float] | None:
    if value is None or units is None:
        return None
    if name == "mota":
        return transformed_interval("r2", value, left_out_U, units)  # it also ranges from -inf to 1
    return proportion_interval(value, left_out_U, units)


def tracked_frames(
    truth: Sequence[np.ndarray], detections: Sequence[np.ndarray], identities: Sequence[np.ndarray], *, code: int
) -> list[FrameIdentities]:
    """The sequence of one class, from the labels (M, 9), detections (D, 8) and identities (D,) of a recording's frames.

    Detections without an identity, -1, are left out; so are objects to ignore or without an identity, and the
    detections that only these explain.
    """
    frames = []
    for objects_M9, all_D8, identity_D in zip(truth, detections, identities, strict=True):
        of_class = (all_D8[:, _DETECTED_CLASS] == code) & (identity_D >= 0)
        found_D8, identity_D = all_D8[of_class], identity_D[of_class]
        objects_M9 = objects_M9[objects_M9[:, _CLASS] == code].copy()
        objects_M9[objects_M9[:, _TRACK] < 0, _IGNORE] = 1
        counted_D = match_objects(objects_M9, found_D8, same_class=True, iou=MATCH_IOU) != IGNORED
        true_M9 = objects_M9[objects_M9[:, _IGNORE] == 0]
        true_M = true_M9[:, _TRACK].astype(int)
        frames.append(FrameIdentities(true_M, true_M9[:, 1:5], identity_D[counted_D], found_D8[counted_D, :4]))
    return frames


# Counts of a sequence: of HOTA by threshold, each (A,); then one number each.
_FOUND, _MISSED, _INVENTED, _ASSOCIATION = (slice(19 * part, 19 * part + 19) for part in range(4))
_CLEAR_FOUND, _CLEAR_MISSED, _CLEAR_INVENTED, _SWITCHES, _ID_FOUND, _ID_MISSED, _ID_INVENTED = range(76, 83)


def _figures(counts_F: np.ndarray) -> dict[str, float | None]:
    """The metrics from the counts (F,) of one or more sequences."""
    found_A, missed_A, invented_A = counts_F[_FOUND], counts_F[_MISSED], counts_F[_INVENTED]
    if not found_A[0] + missed_A[0] + invented_A[0]:
        return dict.fromkeys(FIGURES)
    deta_A = found_A / (found_A + missed_A + invented_A)
    assa_A = counts_F[_ASSOCIATION] / np.maximum(found_A, 1)
    num_true = counts_F[_CLEAR_FOUND] + counts_F[_CLEAR_MISSED]
    errors = counts_F[_CLEAR_INVENTED] + counts_F[_SWITCHES]
    id_found = counts_F[_ID_FOUND]
    return {
        "hota": float(np.sqrt(deta_A * assa_A).mean()),
        "deta": float(deta_A.mean()),
        "assa": float(assa_A.mean()),
        "mota": float((counts_F[_CLEAR_FOUND] - errors) / num_true) if num_true else None,
        "idf1": float(2 * id_found / (2 * id_found + counts_F[_ID_MISSED] + counts_F[_ID_INVENTED])),
    }


def _sequence_counts(sequence: Sequence[FrameIdentities]) -> np.ndarray:
    """The counts (F,) of one sequence."""
    true, predicted = (
        np.unique(np.concatenate([frame[place] for frame in sequence]), return_inverse=True) for place in (0, 2)
    )
    shape = len(true[0]), len(predicted[0])
    true_M = np.split(true[1], np.cumsum([len(frame.true_M) for frame in sequence])[:-1])
    predicted_D = np.split(predicted[1], np.cumsum([len(frame.predicted_D) for frame in sequence])[:-1])
    ious = [box_iou_matrix(frame.boxes_M4, frame.boxes_D4) for frame in sequence]
    frames = list(zip(true_M, predicted_D, ious, strict=True))
    boxes_G, boxes_P = (
        np.bincount(codes, minlength=size) for codes, size in zip((true[1], predicted[1]), shape, strict=True)
    )
    return np.concatenate(
        [
            _hota_counts(frames, boxes_G, boxes_P),
            _clear_counts(frames, shape[0]),
            _identity_counts(frames, boxes_G, boxes_P),
        ]
    )


_Frame = tuple[np.ndarray, np.ndarray, np.ndarray]  # codes of identities (M,) and (D,), IoU (M, D)


def _hota_counts(frames: Sequence[_Frame], boxes_G: np.ndarray, boxes_P: np.ndarray) -> np.ndarray:
    """Found, missed and invented objects, and the sum of the found ones' association, each (A,)."""
    alignment_GP = np.zeros((len(boxes_G), len(boxes_P)))
    for true_M, predicted_D, iou_MD in frames:
        both_MD = iou_MD.sum(0) + iou_MD.sum(1)[:, None] - iou_MD
        share_MD = np.divide(iou_MD, both_MD, out=np.zeros(iou_MD.shape), where=both_MD > _EPSILON)
        alignment_GP[np.ix_(true_M, predicted_D)] += share_MD
    alignment_GP /= np.maximum(boxes_G[:, None] + boxes_P - alignment_GP, _EPSILON)
    matches_AGP = np.zeros((len(HOTA_IOUS), len(boxes_G), len(boxes_P)))
    for true_M, predicted_D, iou_MD in frames:
        rows, columns = linear_sum_assignment(-alignment_GP[np.ix_(true_M, predicted_D)] * iou_MD)
        reached_AR = iou_MD[rows, columns] >= HOTA_IOUS[:, None] - _EPSILON
        matches_AGP[:, true_M[rows], predicted_D[columns]] += reached_AR
    found_A = matches_AGP.sum((1, 2))
    association_AGP = matches_AGP**2 / np.maximum(boxes_G[:, None] + boxes_P - matches_AGP, 1)
    return np.concatenate([found_A, boxes_G.sum() - found_A, boxes_P.sum() - found_A, association_AGP.sum((1, 2))])


def _clear_counts(frames: Sequence[_Frame], num_true: int) -> np.ndarray:
    """Found, missed and invented objects and identity switches, (4,); a match goes on while the IoU allows it."""
    found, switches = 0, 0
    last_G, previous_G = np.full(num_true, -1), np.full(num_true, -1)  # identity at the last match, and a frame ago
    for true_M, predicted_D, iou_MD in frames:
        possible_MD = iou_MD >= MATCH_IOU - _EPSILON
        goes_on_MD = previous_G[true_M][:, None] == predicted_D
        rows, columns = linear_sum_assignment(-np.where(possible_MD, 1000 * goes_on_MD + iou_MD, 0))
        matched = possible_MD[rows, columns]
        true, predicted = true_M[rows[matched]], predicted_D[columns[matched]]
        switches += int(((last_G[true] >= 0) & (last_G[true] != predicted)).sum())
        previous_G[:] = -1
        last_G[true] = previous_G[true] = predicted
        found += len(true)
    all_true, all_predicted = (sum(len(frame[place]) for frame in frames) for place in (0, 1))
    return np.array([found, all_true - found, all_predicted - found, switches])


def _identity_counts(frames: Sequence[_Frame], boxes_G: np.ndarray, boxes_P: np.ndarray) -> np.ndarray:
    """Found, missed and invented boxes, (3,), with the best pairing of true and predicted identities as a whole."""
    together_GP = np.zeros((len(boxes_G), len(boxes_P)))
    for true_M, predicted_D, iou_MD in frames:
        together_GP[np.ix_(true_M, predicted_D)] += iou_MD >= MATCH_IOU
    found = together_GP[linear_sum_assignment(-together_GP)].sum()
    return np.array([found, boxes_G.sum() - found, boxes_P.sum() - found])
