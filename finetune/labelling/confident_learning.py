"""Confident learning: which labels contradict out-of-fold probabilities (Northcutt et al. 2021, arXiv:1911.00068).

A model is more confident of some classes than of others, and less on noisy labels. So a row counts for a class not
above one threshold for all, but above the mean probability that the rows with this label have of it.
"""

import numpy as np

_EQUAL = 1e-6  # a probability that is this close to a threshold counts as above it


def confident_thresholds(probs_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """For each class the mean probability of it (K,) over the rows with this label; infinite for a class without rows.

    `probs_NK` (N, K) are out-of-fold probabilities, `labels_N` (N,) the class indices of the labels.
    """
    is_label_NK = labels_N[:, None] == np.arange(probs_NK.shape[1])
    counts_K = is_label_NK.sum(0)
    sums_K = (probs_NK * is_label_NK).sum(0)
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), np.inf)


def confident_classes(probs_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The class that each row is counted for (N,): the one above its threshold, of several the likeliest; -1 for none.

    With the labels as first index this counts the confident joint.
    """
    is_above_NK = probs_NK >= confident_thresholds(probs_NK, labels_N) - _EQUAL
    num_above_N = is_above_NK.sum(1)
    likeliest_N = np.where(num_above_N > 1, probs_NK.argmax(1), is_above_NK.argmax(1))
    return np.where(num_above_N > 0, likeliest_N, -1)


def confident_joint(probs_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """How many rows with one label (first axis) are counted for another class (second axis), int (K, K)."""
    classes_N = confident_classes(probs_NK, labels_N)
    is_counted_N = classes_N >= 0
    joint_KK = np.zeros((probs_NK.shape[1],) * 2, dtype=np.int64)
    np.add.at(joint_KK, (labels_N[is_counted_N], classes_N[is_counted_N]), 1)
    return joint_KK


def contradicted(probs_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Which labels are likely wrong, bool (N,): the row is off the diagonal of the confident joint.

    A row whose label is its likeliest class is never among them.
    """
    classes_N = confident_classes(probs_NK, labels_N)
    is_likeliest_N = self_confidence(probs_NK, labels_N) + 1e-8 >= probs_NK.max(1)
    return (classes_N >= 0) & (classes_N != labels_N) & ~is_likeliest_N


def self_confidence(probs_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The probability of each row's label (N,). The lower, the likelier the label is wrong."""
    return probs_NK[np.arange(len(probs_NK)), labels_N]


def contradicted_classes(probs_NK: np.ndarray, targets_NK: np.ndarray) -> np.ndarray:
    """For rows with several classes: which of their present or absent classes are likely wrong, bool (N, K).

    Each class is a question of its own. `targets_NK` (N, K) are the classes that the rows have.
    """
    wrong = [
        contradicted(np.stack([1 - probs_N, probs_N], 1), is_in_N.astype(np.int64))
        for probs_N, is_in_N in zip(probs_NK.T, targets_NK.T, strict=True)
    ]
    return np.stack(wrong, 1)
