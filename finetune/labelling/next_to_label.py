"""Which clips to label next: the order in which unlabelled clips teach a model most, with the model's guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from finetune.data.labels import join_labels
from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.labelling.clip_features import ClipFeatures, Progress, clip_features, unlabelled_clips
from finetune.recipe.tasks import primary_task
from finetune.run.fitted import read_fitted
from finetune.run.read import Run

FEW_PER_CLASS = 4  # up to this mean number of labelled clips a class, a model's doubts say little
NEIGHBOURS = 20  # that say how typical a clip is
MAX_CLUSTERED = 3000  # clips; more are represented by as many drawn ones

TYPICAL, UNSURE = "typical of clips that are not labelled yet", "the model is unsure"


@dataclass(frozen=True)
class NextClip:
    """A clip to label: the model's guess with its probability, and why the clip is chosen."""

    path: Path
    guess: str
    probability: float
    reason: str


def next_to_label(
    run: Run,
    paths: Sequence[Path],
    labelled: Manifest,
    *,
    count: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[NextClip]:
    """The `count` clips of `paths` to label next, the most useful first; fewer where there are fewer.

    With few `labelled` clips (rows of any split) they are typical ones of what is not labelled yet, then those of which
    the run's model is least sure. Files that cannot be read are left out. Raises DataError where none is left.
    """
    pool = clip_features(run, unlabelled_clips(run, paths), progress=progress)
    if not pool.names:
        raise DataError(f"{run.folder}: no clip to label can be read, of {len(paths)}")
    primary = primary_task(run.outputs)
    output, thresholds_K = run.outputs[primary], read_fitted(run)[primary].thresholds_K
    if len(labelled) < FEW_PER_CLASS * len(output.names):
        known = clip_features(run, labelled, progress=progress)
        known_MD = known.features_ND if known.names else pool.features_ND[:0]
        rows, reason = typical_first(pool.features_ND, known_MD, count=count, seed=seed), TYPICAL
    else:
        margins_N = margins(pool.probs_NK, thresholds_K)
        rows, reason = np.argsort(margins_N, kind="stable")[:count], UNSURE
    return [_next_clip(pool, int(row), output.names, thresholds_K, reason=reason) for row in rows]


def typical_first(pool_ND: np.ndarray, labelled_MD: np.ndarray, *, count: int, seed: int = 0) -> np.ndarray:
    """Rows of the pool (count,), or all: the most typical clip of each cluster without a label, large clusters first.

    `pool_ND` (N, D) are features of unlabelled clips, `labelled_MD` (M, D) of labelled ones. There are as many clusters
    as labels in the end. Typical is a small mean distance to the nearest clips of the cluster. Source: TypiClust,
    arXiv:2202.02794.
    """
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(pool_ND))[: max(MAX_CLUSTERED, count)]
    features = np.concatenate([labelled_MD, pool_ND[drawn]]).astype(np.float64)
    num_labelled, count = len(labelled_MD), min(count, len(drawn))
    clusters = _cluster(features, min(num_labelled + count, len(features)), seed=seed)
    is_labelled_C = np.isin(np.arange(clusters.max() + 1), clusters[:num_labelled])
    order_C = np.lexsort((-np.bincount(clusters), is_labelled_C))
    queues = [_by_typicality(features, np.flatnonzero(clusters == cluster), num_labelled) for cluster in order_C]
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return drawn[np.array(turns[:count], dtype=np.int64) - num_labelled]


def _cluster(features_ND: np.ndarray, number: int, *, seed: int) -> np.ndarray:
    """The cluster of each row (N,), numbered from 0 without gaps."""
    number = min(number, len(np.unique(features_ND, axis=0)))
    found = KMeans(number, n_init=1, random_state=seed).fit_predict(features_ND)
    return np.unique(found, return_inverse=True)[1]


def _by_typicality(features_ND: np.ndarray, members: np.ndarray, num_labelled: int) -> list[int]:
    """The unlabelled members of a cluster, the one with the nearest neighbours first."""
    inside = features_ND[members]
    mean_M = np.sort(cdist(inside, inside), 1)[:, : NEIGHBOURS + 1].mean(1)
    return [int(members[place]) for place in np.argsort(mean_M, kind="stable") if members[place] >= num_labelled]


def margins(probs_NK: np.ndarray, thresholds_K: np.ndarray | None = None) -> np.ndarray:
    """How sure a model is of each row (N,), by probabilities (N, K): the likeliest class minus the next one.

    Where a row may have several classes, which have `thresholds_K` (K,), it is the distance of the most doubtful class
    from its threshold.
    """
    if thresholds_K is not None:
        return np.abs(probs_NK - thresholds_K).min(1)
    ordered_NK = np.sort(probs_NK, axis=1)
    return ordered_NK[:, -1] - ordered_NK[:, -2]


def _next_clip(
    pool: ClipFeatures, row: int, names: Sequence[str], thresholds_K: np.ndarray | None, *, reason: str
) -> NextClip:
    probs_K = pool.probs_NK[row]
    guess = names[int(probs_K.argmax())] if thresholds_K is None else join_labels(names, probs_K >= thresholds_K)
    return NextClip(Path(pool.names[row]), guess, float(probs_K.max()), reason)
