"""Whether edges that some classes share predict these classes in held-out groups. N clips, G groups."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from finetune.checks.shared_edges import (
    GroupEdges,
    SharedParts,
    group_edges,
    group_means,
    score_threshold,
    shared_parts,
    template_scores,
)

FOLDS, NUM_PERMUTATIONS = 5, 999
MIN_TRAIN_GROUPS = 2  # of a set of classes, to build a template


@dataclass(frozen=True, eq=False)
class EdgeSample:
    """Static edges of N clips on one grid, with the names of the clips' classes and groups."""

    fields_N2HW: np.ndarray
    classes_N: np.ndarray
    groups_N: np.ndarray

    def of(self, chosen: np.ndarray) -> "EdgeSample":
        """The clips chosen by row numbers (M,) or a mask (N,)."""
        return EdgeSample(self.fields_N2HW[chosen], self.classes_N[chosen], self.groups_N[chosen])

    def means(self, chosen: np.ndarray) -> np.ndarray:
        """The mean edges of each group in the chosen clips, float32 (G, 2, H, W)."""
        return group_means(self.fields_N2HW[chosen], self.groups_N[chosen])


def class_means(sample: EdgeSample) -> dict[str, np.ndarray]:
    """The mean edges of each class's clips, float32 (2, H, W)."""
    names = np.unique(sample.classes_N).tolist()
    return {name: sample.fields_N2HW[sample.classes_N == name].mean(0, dtype=np.float32) for name in names}


def edges_shared_by_classes(
    sample: EdgeSample, classes: Sequence[str], means: Mapping[str, np.ndarray]
) -> tuple[GroupEdges, SharedParts]:
    """The edges of the groups of some classes, and the areas where other classes, with these `means`, lack them."""
    edges = group_edges(sample.means(np.isin(sample.classes_N, classes)))
    return edges, shared_parts(edges, [mean for name, mean in means.items() if name not in classes])


def held_out_predictions(sample: EdgeSample, sets: Sequence[Sequence[str]]) -> np.ndarray:
    """bool (sets, N): whether each clip has the edges that a set of classes shares in clips of other groups."""
    predicted_SN = np.zeros((len(sets), len(sample.classes_N)), bool)
    folds = StratifiedGroupKFold(min(FOLDS, len(np.unique(sample.groups_N))), shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer clips than folds
        for train, held_out in folds.split(sample.classes_N, sample.classes_N, sample.groups_N):
            train_sample = sample.of(train)
            means = class_means(train_sample)
            for predicted_N, classes in zip(predicted_SN, sets, strict=True):
                template = _template(train_sample, classes, means)
                if template is not None:
                    template_2HW, threshold = template
                    predicted_N[held_out] = template_scores(sample.fields_N2HW[held_out], template_2HW) > threshold
    return predicted_SN


def _template(
    sample: EdgeSample, classes: Sequence[str], means: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float] | None:
    """The edges that the classes share (2, H, W), 0 elsewhere, and the score threshold; None where they share none."""
    is_one = np.isin(sample.classes_N, classes)
    if len(np.unique(sample.groups_N[is_one])) < MIN_TRAIN_GROUPS or is_one.all():
        return None
    edges, shared = edges_shared_by_classes(sample, classes, means)
    if not shared.boxes:
        return None
    template_2HW = edges.mean_2HW * shared.mask_HW
    other_scores = template_scores(sample.fields_N2HW[~is_one], template_2HW)
    return template_2HW, score_threshold(sample.means(is_one), template_2HW, other_scores)


def permutation_p_value(predicted_N: np.ndarray, sample: EdgeSample, classes: Sequence[str]) -> float:
    """The p value of a permutation test: how often shuffled classes reach as high an excess.

    The excess is recall minus false positive rate; for shuffled classes it is that of the best set of as many classes.
    `predicted_N` is bool. Clips of one class in one group count as one observation and are shuffled together.
    """
    units, unit_of_clip = np.unique(np.stack([sample.classes_N, sample.groups_N]), axis=1, return_inverse=True)
    codes = np.unique(units[0], return_inverse=True)[1]
    sizes, hits = np.bincount(unit_of_clip.ravel()), np.bincount(unit_of_clip.ravel(), predicted_N)
    is_one = np.isin(sample.classes_N, classes)
    excess = predicted_N[is_one].mean() - predicted_N[~is_one].mean()
    random = np.random.default_rng(0)
    shuffled = [_max_excess(random.permutation(codes), sizes, hits, len(classes)) for _ in range(NUM_PERMUTATIONS)]
    return (1 + sum(value >= excess - 1e-9 for value in shuffled)) / (NUM_PERMUTATIONS + 1)


def _max_excess(codes: np.ndarray, sizes: np.ndarray, hits: np.ndarray, number: int) -> float:
    """The excess of the `number` classes with the highest recall, given each unit's class, clips and predictions."""
    size_K, hits_K = np.bincount(codes, sizes), np.bincount(codes, hits)
    best = np.argsort(-hits_K / size_K, kind="stable")[:number]
    size, hit = size_K[best].sum(), hits_K[best].sum()
    return float(hit / size - (hits.sum() - hit) / (sizes.sum() - size))
