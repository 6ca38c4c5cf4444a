"""Orders in which unlabelled clips are labelled: accuracy over the number of labels, against a random order.

    FINETUNE_REAL=<folder> FINETUNE_WEIGHTS=<folder> python benchmarks/next_to_label.py [--seeds 20] [--uneven]

A logistic regression on frozen features is trained on the labels so far, and scored on clips of other groups; then the
next clips are labelled. Each seed draws the groups that are tested, and with --uneven how rare each class is among the
clips to label: from all of its clips down to a tenth, evenly on a logarithmic scale. Differences are paired by seed.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from finetune.data.manifest import Manifest
from finetune.datasets.quickstart import draw_quickstart
from finetune.labelling.next_to_label import FEW_PER_CLASS, margins, typical_first
from finetune.recipe.load import load_recipe
from finetune.study.probe import _compute_features
from finetune.train.log.console import Display

DIMENSIONS = 64
RAREST = 0.1  # share of the rarest class's clips that an uneven pool keeps


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors (N, D) of N clips with mean length 1, their labels (N,) and groups (N,), and C of the classifier."""

    features_ND: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    inverse_strength: float
    test_share: float
    steps: tuple[int, ...]


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--uneven", action="store_true", help="some classes are rare among the clips to label")
    parser.add_argument("--only", nargs="+", choices=["quickstart", "ut_interaction"], help="sets")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-labelling")
    options = parser.parse_args()
    names = options.only or ["quickstart", *(["ut_interaction"] if os.environ.get("FINETUNE_REAL") else [])]
    for name in names:
        vectors = load_vectors(name, options.cache)
        with threadpool_limits(1):
            curves = [simulate(vectors, seed, uneven=options.uneven) for seed in range(options.seeds)]
        print_table(name, vectors, curves)


def load_vectors(name: str, cache: Path) -> Vectors:
    """Frozen features of a set: of quickstart the mean and the slope over frames, of UT-Interaction frames in order."""
    if name == "quickstart":
        place = cache / "quickstart" / "manifest.csv"
        manifest = Manifest.from_csv(place if place.exists() else draw_quickstart(place.parent), whole=True)
        recipe, strength, share, steps = "quickstart", 100.0, 0.25, (8, 16, 32, 48, 64, 96, 128)
    else:
        place = Path(os.environ["FINETUNE_REAL"]) / "data/ut_interaction/clips.csv"
        manifest = Manifest.from_csv(place, whole=True)
        recipe, strength, share, steps = "few_clips", 10.0, 1 / 3, (6, 12, 18, 24, 36, 48, 60)
    settings = load_recipe(recipe, [f"data.manifest={place}", f"train.cache_dir={cache / 'features'}"])
    clips = _compute_features(settings, manifest, settings.model.backbone, Display(quiet=True))
    times_T = np.arange(clips.features_NTD.shape[1]) - (clips.features_NTD.shape[1] - 1) / 2
    slope_ND = np.einsum("t,ntd->nd", times_T, clips.features_NTD)
    mean_and_slope_ND = np.concatenate([clips.features_NTD.mean(1), slope_ND], axis=1)
    features_ND = mean_and_slope_ND if name == "quickstart" else clips.features_NTD.reshape(len(clips.labels), -1)
    reduced_ND = PCA(DIMENSIONS, random_state=0).fit_transform(features_ND.astype(np.float64))
    reduced_ND /= np.sqrt((reduced_ND**2).sum(1).mean())
    return Vectors(reduced_ND, clips.labels, clips.groups, strength, share, steps)


def simulate(vectors: Vectors, seed: int, *, uneven: bool) -> dict[str, list[float]]:
    """The accuracy after each step, for each order, on the same tested groups."""
    random = np.random.default_rng(seed)
    names = random.permutation(np.unique(vectors.groups))
    is_tested_N = np.isin(vectors.groups, names[: round(vectors.test_share * len(names))])
    pool = np.flatnonzero(~is_tested_N)
    if uneven:
        pool = make_uneven(pool, vectors.labels, random)
    return {
        name: accuracy_by_step(order, vectors, pool, np.flatnonzero(is_tested_N), np.random.default_rng(seed + 1000))
        for name, order in ORDERS.items()
    }


def make_uneven(pool: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    classes = random.permutation(np.unique(labels))
    kept = []
    for code, share in zip(classes, RAREST ** np.linspace(0, 1, len(classes)), strict=True):
        rows = random.permutation(pool[labels[pool] == code])
        kept += rows[: max(1, round(share * len(rows)))].tolist()
    return np.sort(np.array(kept))


@dataclass(frozen=True, eq=False)
class State:
    """Vectors of the pool (N, D) and of the labelled clips (M, D), and probabilities of the pool (N, K), if any."""

    pool_ND: np.ndarray
    labelled_MD: np.ndarray
    probs_NK: np.ndarray | None
    num_classes: int
    random: np.random.Generator


Order = Callable[[State, int], np.ndarray]


def accuracy_by_step(
    order: Order, vectors: Vectors, pool: np.ndarray, tested: np.ndarray, random: np.random.Generator
) -> list[float]:
    features_ND, labels = vectors.features_ND, vectors.labels
    labelled, accuracies, model = np.array([], dtype=np.int64), [], None
    for step in vectors.steps:
        left = np.setdiff1d(pool, labelled)
        probs_NK = None if model is None else model.predict_proba(features_ND[left])
        state = State(features_ND[left], features_ND[labelled], probs_NK, len(np.unique(labels)), random)
        chosen = order(state, min(step - len(labelled), len(left)))
        labelled = np.concatenate([labelled, left[chosen]])
        if len(np.unique(labels[labelled])) > 1:
            model = LogisticRegression(C=vectors.inverse_strength, max_iter=200).fit(
                features_ND[labelled], labels[labelled]
            )
            predicted = model.predict(features_ND[tested])
        else:
            predicted = labels[labelled[:1]]
        accuracies.append(float((predicted == labels[tested]).mean()))
    return accuracies


def at_random(state: State, count: int) -> np.ndarray:
    return state.random.choice(len(state.pool_ND), count, replace=False)


def typical(state: State, count: int) -> np.ndarray:
    seed = int(state.random.integers(2**31))
    return typical_first(state.pool_ND, state.labelled_MD, count=count, seed=seed)


def unsure(state: State, count: int) -> np.ndarray:
    """The smallest margins; typical clips while there is no model."""
    if state.probs_NK is None:
        return typical(state, count)
    return np.argsort(margins(state.probs_NK), kind="stable")[:count]


def typical_then_unsure(state: State, count: int) -> np.ndarray:
    """What `finetune next-to-label` does."""
    is_early = len(state.labelled_MD) < FEW_PER_CLASS * state.num_classes
    return typical(state, count) if is_early else unsure(state, count)


def farthest(state: State, count: int) -> np.ndarray:
    """Greedy k-center (arXiv:1708.00489): the clip farthest from all that are labelled or chosen."""
    chosen: list[int] = []
    if len(state.labelled_MD):
        near_N = cdist(state.pool_ND, state.labelled_MD).min(1)
    else:  # the clip nearest to the mean is first
        near_N = -np.linalg.norm(state.pool_ND - state.pool_ND.mean(0), axis=1)
    while len(chosen) < count:
        chosen.append(int(near_N.argmax()))
        to_last_N = cdist(state.pool_ND, state.pool_ND[chosen[-1:]])[:, 0]
        is_first = len(chosen) == 1 and not len(state.labelled_MD)
        near_N = to_last_N if is_first else np.minimum(near_N, to_last_N)
        near_N[chosen] = -1
    return np.array(chosen)


def unsure_and_unlike(state: State, count: int) -> np.ndarray:
    """The farthest of the least sure clips, twice as many as are wanted; typical clips while there is no model."""
    if state.probs_NK is None:
        return typical(state, count)
    candidates = np.argsort(margins(state.probs_NK), kind="stable")[: 2 * count]
    among = State(state.pool_ND[candidates], state.labelled_MD, None, state.num_classes, state.random)
    return candidates[farthest(among, count)]


def gradients(state: State, count: int) -> np.ndarray:
    """BADGE (arXiv:1906.03671): k-means++ on gradients of the last layer; typical clips while there is no model."""
    if state.probs_NK is None:
        return typical(state, count)
    errors_NK = state.probs_NK - (state.probs_NK == state.probs_NK.max(1, keepdims=True))
    gram_NN = (errors_NK @ errors_NK.T) * (state.pool_ND @ state.pool_ND.T)
    squares_N = np.diag(gram_NN)
    chosen = [int(squares_N.argmax())]
    near_N = squares_N + squares_N[chosen[0]] - 2 * gram_NN[chosen[0]]
    while len(chosen) < count:
        near_N = np.maximum(near_N, 1e-12)
        near_N[chosen] = 0
        chosen.append(int(state.random.choice(len(near_N), p=near_N / near_N.sum())))
        near_N = np.minimum(near_N, squares_N + squares_N[chosen[-1]] - 2 * gram_NN[chosen[-1]])
    return np.array(chosen)


def covering(state: State, count: int) -> np.ndarray:
    """ProbCover (arXiv:2203.11550): balls that cover most clips, with the largest radius at which 95 % are pure."""
    features_ND = np.concatenate([state.labelled_MD, state.pool_ND])
    distances_NN = cdist(features_ND, features_ND)
    clusters = KMeans(state.num_classes, n_init=1, random_state=0).fit_predict(features_ND)
    is_same_NN = clusters[:, None] == clusters
    radii = np.quantile(distances_NN, np.linspace(0.01, 0.3, 30))
    pure = [radius for radius in radii if ((distances_NN > radius) | is_same_NN).all(1).mean() >= 0.95]
    is_near_NN = distances_NN <= (pure[-1] if pure else radii[0])
    num_labelled = len(state.labelled_MD)
    is_covered_N = is_near_NN[:num_labelled].any(0)
    chosen: list[int] = []
    for _ in range(count):
        gain_N = (is_near_NN & ~is_covered_N).sum(1)[num_labelled:]
        gain_N[chosen] = -1
        chosen.append(int(gain_N.argmax()))
        is_covered_N |= is_near_NN[num_labelled + chosen[-1]]
    return np.array(chosen)


ORDERS: dict[str, Order] = {
    "random": at_random,
    "typical, then unsure": typical_then_unsure,
    "typical (TypiClust)": typical,
    "unsure (margin)": unsure,
    "unsure and unlike each other": unsure_and_unlike,
    "farthest first (k-center)": farthest,
    "gradients (BADGE)": gradients,
    "covering (ProbCover)": covering,
}


def print_table(name: str, vectors: Vectors, curves: Sequence[dict[str, list[float]]]) -> None:
    """The accuracy of the random order, and of each other one the difference with its 95 % interval over seeds."""
    limit = FEW_PER_CLASS * len(np.unique(vectors.labels))
    is_few_S = np.array(vectors.steps) <= limit
    spans = {f"up to {limit} labels": is_few_S, "more labels": ~is_few_S}
    spans |= {str(step): np.array(vectors.steps) == step for step in vectors.steps}
    print(f"\n{name}, {len(curves)} seeds\n| order | {' | '.join(spans)} |\n|---{'|---' * len(spans)}|")
    baseline_RS = np.array([curve["random"] for curve in curves])
    for order in ORDERS:
        accuracy_RS = np.array([curve[order] for curve in curves])
        cells = [
            f"{accuracy_RS[:, is_in].mean():.3f}"
            if order == "random"
            else with_interval((accuracy_RS - baseline_RS)[:, is_in].mean(1))
            for is_in in spans.values()
        ]
        print(f"| {order} | {' | '.join(cells)} |", flush=True)


def with_interval(differences_R: np.ndarray) -> str:
    """The mean over R seeds, and the half width of its 95 % interval by Student's t."""
    number = len(differences_R)
    half = student.ppf(0.975, number - 1) * differences_R.std(ddof=1) / np.sqrt(number)
    return f"{differences_R.mean():+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
