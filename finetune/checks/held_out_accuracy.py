"""Whether edges that some classes share tell these classes in groups that nothing was learnt from."""

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
MIN_TRAIN_GROUPS = 2  # groups


@dataclass(frozen=True, eq=False)
class EdgeSample:
    """Still edges of N clips on one grid, with the clips' classes and groups by name."""

    fields_N2HW: np.ndarray
    classes_N: np.ndarray
    groups_N: np.ndarray

    def of(self, chosen: np.ndarray) -> "EdgeSample":
        return EdgeSample(self.fields_N2HW[chosen], self.classes_N[chosen], self.groups_N[chosen])

    def means(self, chosen: np.ndarray) -> np.ndarray:
        """The mean edges of each group in the chosen clips, float32 (groups, 2, H, W)."""
        return group_means(self.fields_N2HW[chosen], self.groups_N[chosen])


def class_means(sample: EdgeSample) -> dict[str, np.ndarray]:
    """The mean edges of each class's clips, float32 (2, H, W)."""
    names = np.unique(sample.classes_N).tolist()
    return {name: sample.fields_N2HW[sample.classes_N == name].mean(0, dtype=np.float32) for name in names}


def edges_shared_by_classes(
    sample: EdgeSample, classes: Sequence[str], means: Mapping[str, np.ndarray]
) -> tuple[GroupEdges, SharedParts]:
    """The edges of some classes' groups, and the parts of them that other classes lack, whose `means` are given."""
    edges = group_edges(sample.means(np.isin(sample.classes_N, classes)))
    return edges, shared_parts(edges, [mean for name, mean in means.items() if name not in classes])


def held_out_predictions(sample: EdgeSample, sets: Sequence[Sequence[str]]) -> np.ndarray:
    """bool (sets, N): whether each clip bears what a set of classes shares, learnt from clips of other groups alone."""
    predicted_SN = np.zeros((len(sets), len(sample.classes_N)), bool)
    folds = StratifiedGroupKFold(min(FOLDS, len(np.unique(sample.groups_N))), shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer clips than folds
        for learnt, asked in folds.split(sample.classes_N, sample.classes_N, sample.groups_N):
            sample_learnt = sample.of(learnt)
            means = class_means(sample_learnt)
            for predicted_N, classes in zip(predicted_SN, sets, strict=True):
                template = _template(sample_learnt, classes, means)
                if template is not None:
                    template_2HW, least = template
                    predicted_N[asked] = template_scores(sample.fields_N2HW[asked], template_2HW) > least
    return predicted_SN


def _template(
    sample: EdgeSample, classes: Sequence[str], means: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float] | None:
    """Edges that the classes share, 0 elsewhere, and the least score of a clip that bears them; None without any."""
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
    """How often as many classes have as high an excess when classes are shuffled against what was predicted.

    The excess is the share of the classes' clips that is predicted, less that of the others; of the shuffled classes
    those with the most count. Clips of one class in one group are one observation, whose class moves as one.
    """
    takes, take_of_clip = np.unique(np.stack([sample.classes_N, sample.groups_N]), axis=1, return_inverse=True)
    codes = np.unique(takes[0], return_inverse=True)[1]
    sizes, hits = np.bincount(take_of_clip.ravel()), np.bincount(take_of_clip.ravel(), predicted_N)
    is_one = np.isin(sample.classes_N, classes)
    excess = predicted_N[is_one].mean() - predicted_N[~is_one].mean()
    random = np.random.default_rng(0)
    shuffled = [_max_excess(random.permutation(codes), sizes, hits, len(classes)) for _ in range(NUM_PERMUTATIONS)]
    return (1 + sum(each >= excess - 1e-9 for each in shuffled)) / (NUM_PERMUTATIONS + 1)


def _max_excess(codes: np.ndarray, sizes: np.ndarray, hits: np.ndarray, number: int) -> float:
    size_K, hits_K = np.bincount(codes, sizes), np.bincount(codes, hits)
    best = np.argsort(-hits_K / size_K, kind="stable")[:number]
    size, hit = size_K[best].sum(), hits_K[best].sum()
    return float(hit / size - (hits.sum() - hit) / (sizes.sum() - size))
