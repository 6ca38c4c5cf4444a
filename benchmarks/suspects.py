"""Labels that were turned wrong on purpose: how many of them `finetune suspects` finds, and at which precision.

    FINETUNE_REAL=<folder> FINETUNE_WEIGHTS=<folder> python benchmarks/suspects.py [--seeds 10] [--cache DIR]
    FINETUNE_WEIGHTS=<folder> python benchmarks/suspects.py --kfold [--seeds 2] [--cache DIR]

5 % of the labels of a set become another class: any other one, or one that looks alike. Out-of-fold predictions are
those of a logistic regression on frozen features, in five folds of whole groups; with --kfold those of `finetune
kfold`, with the recipe's first phase alone: the head on frozen features. *Top* are the first suspects, as many as
labels were turned.
"""

import argparse
import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from next_to_label import Vectors, load_vectors
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from finetune.data.manifest import Manifest
from finetune.labelling.confident_learning import contradicted, self_confidence
from finetune.labelling.suspects import suspects
from finetune.recipe.load import load_recipe
from finetune.study.kfold import kfold

SHARE, FOLDS = 0.05, 5
# The settings of `kfold`: the head alone, without augmentation, so that features are computed once.
SETTINGS = {
    "quickstart": ("quickstart", ["phases=[{unfreeze: head, epochs: 10, lr: 1e-3}]"]),
    "ut_interaction": (
        "few_clips",
        [
            "phases=[{unfreeze: head, epochs: 12, lr: 1e-3}]",
            *("augment.preset=none", "augment.flip=false", "augment.mixup=0"),
        ],
    ),
}
ALIKE = {  # classes of UT-Interaction with similar movements
    "hand_shaking": ("pointing", "hugging"),
    "hugging": ("hand_shaking", "pushing"),
    "kicking": ("punching", "pushing"),
    "pointing": ("hand_shaking", "punching"),
    "punching": ("pushing", "kicking"),
    "pushing": ("punching", "kicking"),
}
HEADER = "| set | labels turned | accuracy | top: precision = recall | reported | precision | recall |"


def main() -> None:
    """Print a line for each set and kind of wrong label."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kfold", action="store_true", help="predictions of `finetune kfold`")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="sets")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-labelling")
    options = parser.parse_args()
    names = options.only or ["quickstart", *(["ut_interaction"] if os.environ.get("FINETUNE_REAL") else [])]
    print(f"{HEADER}\n|---{'|---' * 6}|")
    for name in names:
        for kind in ("any other class", "one that looks alike"):
            print_line(name, kind, list(results(name, kind, options)))


def results(name: str, kind: str, options: argparse.Namespace) -> Iterator[tuple[float, ...]]:
    """For each seed the accuracy on true labels, and the `scores`."""
    if options.kfold:
        for seed in range(options.seeds):
            yield with_kfold(name, kind, seed, options.cache)
        return
    vectors = load_vectors(name, options.cache)
    classes = manifest_of(name, options.cache).classes
    with threadpool_limits(1):
        for seed in range(options.seeds):
            labels = turn_labels(vectors.labels, classes, kind, seed)
            probs_NK = predict_folds(vectors, labels, seed, len(classes))
            rows = np.flatnonzero(contradicted(probs_NK, labels))
            order = rows[np.argsort(self_confidence(probs_NK, labels)[rows], kind="stable")]
            accuracy = float((probs_NK.argmax(1) == vectors.labels).mean())
            yield accuracy, *scores(labels != vectors.labels, order)


def manifest_of(name: str, cache: Path) -> Manifest:
    real = Path(os.environ.get("FINETUNE_REAL", "")) / "data/ut_interaction/clips.csv"
    return Manifest.from_csv(cache / "quickstart/manifest.csv" if name == "quickstart" else real, whole=True)


def turn_labels(labels: np.ndarray, classes: Sequence[str], kind: str, seed: int) -> np.ndarray:
    """The labels (N,), a share of them turned into another class."""
    random = np.random.default_rng(seed)
    turned = labels.copy()
    for row in random.choice(len(labels), round(SHARE * len(labels)), replace=False):
        name = classes[labels[row]]
        others = [other for other in classes if other != name and (kind == "any other class" or is_alike(name, other))]
        turned[row] = classes.index(str(random.choice(others)))
    return turned


def is_alike(one: str, other: str) -> bool:
    """Of quickstart: the same shape with the same kind of motion, or the same motion of the other shape."""
    if one in ALIKE:
        return other in ALIKE[one]
    (shape, *motion), (other_shape, *other_motion) = one.split("_"), other.split("_")
    return motion == other_motion or (shape == other_shape and motion[0] == other_motion[0])


def predict_folds(vectors: Vectors, labels: np.ndarray, seed: int, num_classes: int) -> np.ndarray:
    """Out-of-fold probabilities (N, K)."""
    probs_NK = np.zeros((len(labels), num_classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(vectors.features_ND, labels, vectors.groups):
        model = LogisticRegression(C=vectors.inverse_strength, max_iter=300)
        model.fit(vectors.features_ND[train], labels[train])
        probs_NK[np.ix_(test, model.classes_)] = model.predict_proba(vectors.features_ND[test])
    return probs_NK


def with_kfold(name: str, kind: str, seed: int, cache: Path) -> tuple[float, ...]:
    """The same with `finetune kfold`; a study that is finished is not repeated."""
    manifest = manifest_of(name, cache)
    labels = turn_labels(manifest.labels, manifest.classes, kind, seed)
    folder = cache / "kfold" / f"{name}-{kind.split()[0]}-{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = folder.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group"])
        assert manifest.groups is not None
        for row in range(len(manifest)):
            writer.writerow([manifest.path(row), manifest.classes[labels[row]], manifest.groups[row]])
    recipe, overrides = SETTINGS[name]
    places = [f"data.manifest={table}", f"train.cache_dir={cache / 'features'}", "data.val=0", f"seed={seed}"]
    settings = load_recipe(recipe, [*overrides, *places])
    kfold(settings, Manifest.from_csv(table, whole=True), folds=FOLDS, out=folder)
    row_of = {str(manifest.path(row)): row for row in range(len(manifest))}
    with (folder / "evaluation/predictions.csv").open(newline="", encoding="utf-8") as file:
        predicted = {row["path"]: row["predicted"] for row in csv.DictReader(file)}
    is_right = [predicted[path] == manifest.classes[manifest.labels[row]] for path, row in row_of.items()]
    order = np.array([row_of[suspect.clip.path] for suspect in suspects(folder)], dtype=np.int64)
    return float(np.mean(is_right)), *scores(labels != manifest.labels, order)


def scores(is_wrong_N: np.ndarray, order: np.ndarray) -> tuple[float, float, float, float]:
    """Precision of the top, the number of suspects, their precision and their recall; `order` (M,) are their rows."""
    found = is_wrong_N[order]
    number = int(is_wrong_N.sum())
    return found[:number].sum() / number, len(order), found.mean() if len(order) else np.nan, found.sum() / number


def print_line(name: str, kind: str, values: Sequence[tuple[float, ...]]) -> None:
    """Means over seeds, with the standard deviation."""
    means, spreads = np.mean(values, axis=0), np.std(values, axis=0, ddof=min(1, len(values) - 1))
    cells = [
        f"{mean:.0f} ± {sd:.0f}" if mean > 1 else f"{mean:.2f} ± {sd:.2f}"
        for mean, sd in zip(means, spreads, strict=True)
    ]
    print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
