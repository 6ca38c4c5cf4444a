"""How well a search finds clips of the same class: recall@k, mAP, mAP@R, median rank, with intervals and chance level.

Each query ranks the other clips, its gallery, by cosine. A clip found is right if it shares a class with the query.
Suffixes: N clips, D dimensions, K classes, Q queries, M clips of a gallery, R right clips of a query, U groups.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import gammaln

from finetune.metrics.intervals import (
    JackknifeUnits,
    half_width_from_jackknife,
    interval_of_median,
    interval_of_shares,
    jackknife_units,
    mean_interval,
    proportion_interval,
    widen_for_pooled_folds,
)

RECALL_AT = (1, 5, 10)
SHARES = (*(f"recall_{k}" for k in RECALL_AT), "map", "map_at_r", "r_precision")  # metrics in 0…1: means over queries
BLOCK_SCORES, BLOCK_QUERIES = 16_000_000, 1024  # cosines and queries in memory at once, at most
MAX_RANKED = 100_000_000  # pairs of a query and a clip: above that, and above MIN_QUERIES, queries are drawn at random
MIN_QUERIES = 500
LARGE_GALLERY, MAX_UNITS, MAX_UNITS_LARGE = 50_000, 100, 20  # groups that are left out, few for a large gallery


@dataclass(frozen=True, eq=False)
class LabelledVectors:
    """Vectors of N clips, of length 1, their classes bool (N, K), and their groups (N,), None without any.

    `blocks` are arrays (…, D), N rows in all, which can be iterated several times: parts of a large set are read anew.
    """

    blocks: Iterable[np.ndarray]
    classes_NK: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes_NK)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows (…, D), float32."""
        order, parts, first = np.argsort(rows, kind="stable"), [], 0
        for block in self.blocks:
            inside = rows[order][(rows[order] >= first) & (rows[order] < first + len(block))]
            parts.append(np.asarray(block[inside - first], np.float32))
            first += len(block)
        vectors = np.concatenate(parts)
        return vectors[np.argsort(order)]

    def scores(self, queries_QD: np.ndarray) -> np.ndarray:
        """Cosines of queries with all clips, float32 (Q, N)."""
        return np.concatenate([queries_QD @ np.asarray(block, np.float32).T for block in self.blocks], axis=1)


@dataclass(frozen=True, eq=False)
class QueryRanks:
    """What Q queries find, one value each: only queries with a right clip in their gallery.

    `rows` (Q,) are the clips that are queries; `shares` has a value in 0…1 by the names of SHARES, `chance` what a
    random ranking is expected to get; `first_rank` is the rank of the first right clip, from 1. `left_out` (U,) are the
    means of shares without each of the `units`, as queries and in galleries. `without_match` are the rows without a
    right clip. `sampled` is the number of clips that the queries were drawn from, None where all of them are queries.
    """

    rows: np.ndarray
    shares: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    first_rank: np.ndarray
    gallery_sizes: np.ndarray
    right_sizes: np.ndarray
    without_match: np.ndarray
    units: JackknifeUnits
    left_out: dict[str, np.ndarray] = field(default_factory=dict)
    sampled: int | None = None


def rank_queries(
    clips: LabelledVectors,
    *,
    queries: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    parts: np.ndarray | None = None,
    same_group: bool = False,
) -> QueryRanks:
    """Rank the gallery of each query.

    `queries` are rows, by default all with a class; `gallery` bool (N,) are the clips that may be found, by default
    all with a class. With `parts` (N,), a query only finds clips of its own part, such as those that the model of one
    fold embedded. A query never finds itself, nor, unless `same_group`, a clip of its own group. Of equal cosines wrong
    clips come first, so nothing is gained where a network gives all clips the same vector. In memory are BLOCK_SCORES
    cosines, or those of one query.
    """
    labelled_N = np.asarray(clips.classes_NK.any(axis=1))
    queries = np.flatnonzero(labelled_N) if queries is None else queries
    gallery_N: np.ndarray = labelled_N if gallery is None else gallery & labelled_N
    classes_KN = np.ascontiguousarray(clips.classes_NK.T)
    group_of = None if same_group or clips.groups is None else np.unique(clips.groups, return_inverse=True)[1]
    most, sampled = max(MIN_QUERIES, MAX_RANKED // max(1, len(clips))), None
    if len(queries) > most:
        sampled = len(queries)
        queries = np.sort(np.random.default_rng(0).choice(queries, most, replace=False))
    units = _units(clips, queries, gallery_N)
    tally = _Tally(units.count)
    step = max(1, min(BLOCK_QUERIES, BLOCK_SCORES // max(1, len(clips))))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        for row, scores_N in zip(part.tolist(), clips.scores(clips.at(part)), strict=True):
            allowed_N = gallery_N & (np.arange(len(clips)) != row)
            if group_of is not None:
                allowed_N &= group_of != group_of[row]
            if parts is not None:
                allowed_N &= parts == parts[row]
            found = np.flatnonzero(allowed_N)
            right_M = classes_KN[clips.classes_NK[row]].any(0)[found]
            tally.add(row, _order(scores_N[found], right_M), found, right_M, units.unit_of_row)
    return tally.ranks(queries, units, sampled)


def retrieval_metrics(ranks: QueryRanks, classes_NK: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """The metrics of queries with intervals (`…_ci`) and chance level (`…_chance`), and a row for each class.

    `classes_NK` are those of `rank_queries`. `recall_1`, `recall_5`, `recall_10`: the share of queries with a right
    clip among so many nearest. `map`: mean average precision, over the whole gallery. `map_at_r`: the same within the
    first R, R being the number of right clips (Musgrave, Belongie and Lim 2020, arXiv:2003.08505). `r_precision`: the
    share of right clips among the first R. `median_rank`: of the first right clip. All but the counts are None without
    queries.

    Chance is the expected value of a random ranking, exactly; of the median rank, the smallest rank within which at
    least half of the queries are expected to have a right clip.

    Intervals are by a jackknife over groups. For means over whole rankings (`map`, `map_at_r`, `r_precision`) a group
    is left out as queries and from all galleries, since both depend on which groups there are. A recall changes too
    much with one clip less in a gallery for that: groups are left out as queries only, and standard errors are
    multiplied by the factor for pooled folds, as each clip is a query and is found. In simulations
    of 5 to 120 groups, 90 to 100 of 100 held the true value (benchmarks/retrieval_intervals.py). The interval of the
    median rank is `interval_of_median`, of queries alone.
    """
    numbers = {
        "num_queries": len(ranks.rows),
        "num_without_match": len(ranks.without_match),
        "sampled_from": ranks.sampled,
    }
    without_match = classes_NK[ranks.without_match].sum(0)
    counts: dict[str, Any] = {
        **numbers,
        "without_match": {name: int(number) for name, number in zip(classes, without_match, strict=True) if number},
        "gallery_size": float(ranks.gallery_sizes.mean()) if len(ranks.rows) else None,
    }
    figures = {name: _share(ranks, name) for name in SHARES} | {"median_rank": _median_rank(ranks)}
    flat = {f"{name}{end}": value for name, values in figures.items() for end, value in values.items()}
    return counts | flat | {"per_class": _class_rows(ranks, classes_NK, classes)}


def paired_difference_of_ranks(ranks: QueryRanks, other: QueryRanks, name: str) -> tuple[float, tuple[float, float]]:
    """How much larger a metric of SHARES is with the first of two embeddings of the same clips, with its interval.

    Both must rank the same galleries for the same queries. The interval is as in `retrieval_metrics`: by a jackknife in
    which each group is left out as queries and, except for recalls, from all galleries.
    """
    assert np.array_equal(ranks.rows, other.rows) and np.array_equal(ranks.gallery_sizes, other.gallery_sizes)
    differences_Q = ranks.shares[name] - other.shares[name]
    if name.startswith("recall"):
        with widen_for_pooled_folds():
            return mean_interval(differences_Q, ranks.units.unit_of_row[ranks.rows])
    difference = float(differences_Q.mean())
    half = half_width_from_jackknife(difference, ranks.left_out[name] - other.left_out[name], ranks.units)
    return difference, (max(-1.0, difference - half), min(1.0, difference + half))


def chance_level(gallery: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray]:
    """The expected values of SHARES for random rankings of M = `gallery` clips with R = `right` ≥ 1 right ones, (Q,).

    Average precision: E[precision at rank i | right there] = (1 + (i - 1) (R - 1) / (M - 1)) / i, over all ranks with
    the probability R / M that it is right (Bestgen 2015, The Prague Bulletin of Mathematical Linguistics 103).
    """
    size, number = np.asarray(gallery, float), np.asarray(right, float)
    others = np.where(size > 1, (number - 1) / np.maximum(1, size - 1), 0)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, size.max(initial=0) + 1))])
    all_ranks, first_ranks = harmonic[size.astype(int)], harmonic[number.astype(int)]
    return {f"recall_{k}": _chance_within(k, size, number) for k in RECALL_AT} | {
        "map": (others * (size - all_ranks) + all_ranks) / size,
        "map_at_r": (others * (number - first_ranks) + first_ranks) / size,
        "r_precision": number / size,
    }


def _chance_within(rank: int, size: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The probability of a right clip within the first ranks: 1 - C(M - R, k) / C(M, k)."""
    wrong = size - number
    possible = wrong >= rank
    left = np.where(possible, wrong - rank, 0)
    rest = np.where(possible, size - rank, 0)
    none = gammaln(wrong + 1) - gammaln(left + 1) - gammaln(size + 1) + gammaln(rest + 1)
    return np.where(possible, 1 - np.exp(none), 1.0)


def chance_median_rank(gallery: np.ndarray, right: np.ndarray) -> int:
    """The smallest rank within which at least half of Q queries are expected to have a right clip.

    `gallery` (Q,) are numbers of clips, `right` (Q,) of right ones among them.
    """
    size, number = np.asarray(gallery, float), np.asarray(right, float)
    low, high = 1, int(size.max())
    while low < high:
        middle = (low + high) // 2
        if _chance_within(middle, size, number).mean() >= 0.5 - 1e-12:
            high = middle
        else:
            low = middle + 1
    return low


def _units(clips: LabelledVectors, queries: np.ndarray, gallery: np.ndarray) -> JackknifeUnits:
    """The groups (or clips) that are left out one by one; their weights are their numbers of queries."""
    weights_N = np.bincount(queries, minlength=len(clips)) + 1e-9 * gallery
    most = MAX_UNITS if len(clips) <= LARGE_GALLERY else MAX_UNITS_LARGE
    return jackknife_units(clips.groups, len(clips), weights_N=weights_N.astype(float), most=most)


def _order(scores_M: np.ndarray, right_M: np.ndarray) -> np.ndarray:
    """Clips by falling score; of equal scores wrong ones first, then lower rows."""
    wrong_first = np.argsort(right_M, kind="stable")
    return wrong_first[np.argsort(-scores_M[wrong_first], kind="stable")]


class _Tally:
    """Collects the values of queries, and their sums without each unit."""

    def __init__(self, units: int) -> None:
        self.rows: list[int] = []
        self.without_match: list[int] = []
        self.shares: list[list[float]] = []
        self.counts: list[tuple[int, int, int]] = []  # first rank, clips of the gallery, right ones
        self.sums_SU = np.zeros((len(SHARES), units))
        self.queries_U = np.zeros(units)

    def add(self, row: int, order_M: np.ndarray, found: np.ndarray, right_M: np.ndarray, unit_of: np.ndarray) -> None:
        places_R = np.flatnonzero(right_M[order_M])
        if not len(places_R):
            self.without_match.append(row)
            return
        units_M = unit_of[found[order_M]]
        numbers_R = np.arange(1, len(places_R) + 1)
        self.rows.append(row)
        kept = np.ones((len(places_R), 1), bool)
        self.shares.append(_shares(kept, numbers_R[:, None], places_R[:, None] + 1)[:, 0].tolist())
        self.counts.append((int(places_R[0]) + 1, len(order_M), len(places_R)))
        kept_RU = units_M[places_R][:, None] != np.arange(len(self.queries_U))
        ranks_RU = places_R[:, None] + 1 - _before(places_R, units_M, len(self.queries_U))
        shares_SU = _shares(kept_RU, kept_RU.cumsum(0), ranks_RU)
        use_U = kept_RU.any(0)
        use_U[unit_of[row]] = False
        self.sums_SU[:, use_U] += shares_SU[:, use_U]
        self.queries_U += use_U

    def ranks(self, queries: np.ndarray, units: JackknifeUnits, sampled: int | None) -> QueryRanks:
        counts_Q3 = np.array(self.counts, dtype=int).reshape(-1, 3)
        first, sizes, right = counts_Q3.T
        values_SQ = np.array(self.shares).reshape(-1, len(SHARES)).T
        left_out_SU = np.divide(
            self.sums_SU, self.queries_U, out=np.full(self.sums_SU.shape, np.nan), where=self.queries_U > 0
        )
        return QueryRanks(
            np.array(self.rows, int),
            dict(zip(SHARES, values_SQ, strict=True)),
            chance_level(sizes, right),
            first,
            sizes,
            right,
            np.array(self.without_match, int),
            units,
            dict(zip(SHARES, left_out_SU, strict=True)),
            sampled,
        )


def _before(places_R: np.ndarray, units_M: np.ndarray, units: int) -> np.ndarray:
    """How many clips of each unit are ranked before each right clip, (R, U)."""
    next_right_M = np.searchsorted(places_R, np.arange(len(units_M)), "right")
    counts = np.bincount(next_right_M * units + units_M, minlength=(len(places_R) + 1) * units)
    return counts.reshape(-1, units)[:-1].cumsum(0)


def _shares(kept_RU: np.ndarray, numbers_RU: np.ndarray, ranks_RU: np.ndarray) -> np.ndarray:
    """SHARES (S, U) of one query: its right clips that are kept, their numbers from 1, and their ranks from 1."""
    total_U = np.maximum(1, kept_RU.sum(0))
    precision_RU = np.where(kept_RU, numbers_RU / ranks_RU, 0)
    within_RU = kept_RU & (ranks_RU <= total_U)
    recalls = [(kept_RU & (ranks_RU <= k)).any(0) for k in RECALL_AT]
    averages = [precision_RU.sum(0), (precision_RU * within_RU).sum(0), within_RU.sum(0)]
    return np.array([*recalls, *(values / total_U for values in averages)], float)


def _share(ranks: QueryRanks, name: str) -> Mapping[str, Any]:
    if not len(ranks.rows):
        return {"": None, "_ci": None, "_chance": None}
    values_Q = ranks.shares[name]
    value, variance = float(values_Q.mean()), float(values_Q.var())
    if name.startswith("recall"):
        with widen_for_pooled_folds():
            interval = interval_of_shares(values_Q, ranks.units.unit_of_row[ranks.rows])
    else:
        interval = proportion_interval(value, ranks.left_out[name], ranks.units, variance=variance)
    return {"": value, "_ci": interval, "_chance": float(ranks.chance[name].mean())}


def _median_rank(ranks: QueryRanks) -> Mapping[str, Any]:
    if not len(ranks.rows):
        return {"": None, "_ci": None, "_chance": None}
    groups = ranks.units.unit_of_row[ranks.rows]
    interval = interval_of_median(ranks.first_rank, groups) if len(np.unique(groups)) > 1 else None
    chance = chance_median_rank(ranks.gallery_sizes, ranks.right_sizes)
    return {"": float(np.median(ranks.first_rank)), "_ci": interval, "_chance": chance}


def _class_rows(ranks: QueryRanks, classes_NK: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each class the means over its queries; a query with several classes counts in each."""
    rows = []
    for label, name in enumerate(classes):
        of_class_Q = classes_NK[ranks.rows, label]
        row: dict[str, Any] = {"class": name, "queries": int(of_class_Q.sum())}
        for share in SHARES:
            row[share] = float(ranks.shares[share][of_class_Q].mean()) if of_class_Q.any() else None
        row["map_chance"] = float(ranks.chance["map"][of_class_Q].mean()) if of_class_Q.any() else None
        row["median_rank"] = float(np.median(ranks.first_rank[of_class_Q])) if of_class_Q.any() else None
        rows.append(row)
    return rows
