"""Accuracy by a property of the clips, such as duration or picture size."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.metrics.intervals import interval_of_shares

MAX_VALUES, NUM_QUANTILES, MIN_SLICE_ROWS = 4, 3, 20


def accuracy_by_slice(
    facts: Mapping[str, np.ndarray], correct_N: np.ndarray, groups: np.ndarray | None
) -> list[dict[str, Any]]:
    """Accuracy with its interval in slices of each property, for properties with more than one value.

    `facts` maps a property's name to its values (N,), NaN where unknown; `correct_N` is bool (N,). Each value is a
    slice where there are at most MAX_VALUES, else terciles are. Properties known for fewer than MIN_SLICE_ROWS rows are
    left out.
    """
    found = []
    for name, values_N in facts.items():
        known = ~np.isnan(values_N)
        if known.sum() < MIN_SLICE_ROWS or len(np.unique(values_N[known])) < 2:
            continue
        parts = [_part(values_N, here, correct_N, groups) for here in _parts(values_N, known)]
        found.append({"fact": name, "parts": parts})
    return found


def _parts(values_N: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    distinct = np.unique(values_N[known])
    if len(distinct) <= MAX_VALUES:
        return [values_N == value for value in distinct]
    thirds = np.quantile(values_N[known], np.arange(1, NUM_QUANTILES) / NUM_QUANTILES)
    borders = np.unique(np.minimum(thirds, distinct[-2]))  # most rows may have the largest value: it is a slice then
    place = np.searchsorted(borders, values_N, side="left")
    return [here for part in range(len(borders) + 1) if (here := known & (place == part)).any()]


def _part(values_N: np.ndarray, here: np.ndarray, correct_N: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    return {
        "low": float(values_N[here].min()),
        "high": float(values_N[here].max()),
        "rows": int(here.sum()),
        "accuracy": float(correct_N[here].mean()),
        "accuracy_ci": interval_of_shares(correct_N[here], None if groups is None else groups[here]),
    }
