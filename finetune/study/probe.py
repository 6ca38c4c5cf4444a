"""Probes: how far the features of frozen backbones tell the classes apart, before anything is trained.

Each backbone sees each clip once, as evaluation does, and what it gives is kept. On that small classifiers are
cross-validated by whole groups; their settings are chosen in folds of each fold's other rows, so that no row is tested
by what was chosen on it. Rows of the split test are left out: they choose nothing, also not a backbone.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError, RunError
from finetune.feature_cache.cache_folder import cache_root, make_room
from finetune.feature_cache.cached_clips import CachedClips, open_cached_clips
from finetune.feature_cache.fill import fill_cache
from finetune.feature_cache.frozen_part import cache_key, frozen_part
from finetune.metrics.classification import score_multiclass
from finetune.metrics.intervals import widen_for_pooled_folds
from finetune.model.count_multiplications import count_multiplications
from finetune.model.freezing.freeze import set_trainable
from finetune.model.temporal_pooling import build_pooling
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import Multitask
from finetune.runtime.device import resolve_device, resolve_precision, seed_device
from finetune.runtime.threads import fits_one_thread, limit_threads
from finetune.study.folds import fold_rows, fold_units
from finetune.train.from_recipe import new_model
from finetune.train.log.console import Display
from finetune.train.setup.preflight import load_file_facts
from finetune.video.dataset import ClipDataset

FOLDS, INNER_FOLDS = 5, 3
# Features wider than that are first brought to so many principal components; of fewer rows that loses nothing.
PCA_MIN_WIDTH, MOST_COMPONENTS = 512, 512
HEAD_STEPS, BATCH_SIZE = 200, 32  # of the attentive head
Fold = tuple[np.ndarray, np.ndarray]  # rows to learn from, rows to predict
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class ProbeClassifier:
    """A small classifier: its settings to choose from, the most cautious first, and how it learns and predicts.

    `predict` takes the features (N, T, D) and labels (N,) to learn from, features to predict (M, T, D) and a setting;
    it gives probabilities (M, K) of the K classes that the labels have, in their order. Settings are compared in
    `inner_folds` inner folds.
    """

    settings: tuple[float, ...]
    predict: Predict
    inner_folds: int = INNER_FOLDS


@dataclass(frozen=True)
class ProbeResult:
    """What one classifier makes of one backbone's features; shares in 0…1, seconds of computing features and of it."""

    backbone: str
    method: str
    top1: float
    interval: tuple[float, float]
    seconds_of_features: float
    seconds: float


def majority_baseline(manifest: Manifest) -> dict[str, Any]:
    """The most frequent class of the rows that a probe looks at, and how often it is."""
    manifest = of_one_task(manifest)
    counts = np.bincount(manifest.without(manifest.rows("test")).labels, minlength=len(manifest.classes))
    return {"class": manifest.classes[int(counts.argmax())], "top1": float(counts.max() / counts.sum())}


def of_one_task(manifest: Manifest) -> Manifest:
    """The rows that have a class of the task that is probed: of several the first with classes, or RecipeError."""
    if not manifest.classes:
        raise RecipeError("a probe tells classes apart, and no task has any; train the run, with train: head")
    lacks = (manifest.labels >= len(manifest.classes)) & (manifest.targets is None)
    return replace(manifest, tasks={}).without(np.flatnonzero(lacks))


def probe(
    recipe: Recipe, manifest: Manifest, backbones: Sequence[str], *, display: Display | None = None
) -> list[ProbeResult]:
    """Every method on every backbone, for the rows that are not of the split test; the best first.

    Of the recipe, its clips, weights and cache are used. Raises DataError where there are too few rows or groups, or
    files cannot be read, and RecipeError for rows with several classes.
    """
    recipe, manifest = recipe.model_copy(update={"tasks": {}, "multitask": Multitask()}), of_one_task(manifest)
    if manifest.targets is not None:
        raise RecipeError("a probe is for clips of one class each; leave out data.multilabel")
    rows = replace(manifest.without(manifest.rows("test")), splits=_all_train(manifest))
    fold_rows(rows, _folds(rows), seed=recipe.seed)
    found = []
    with display or Display(quiet=True) as shown:
        for backbone in backbones:
            shown.print_line(backbone)
            features, labels, groups, seconds = _features(recipe, rows, backbone, shown)
            grouped = rows.groups is not None or len(np.unique(groups)) < len(groups)
            folds = _split_folds(labels, groups, _folds(rows), seed=recipe.seed)
            if sum(len(test) for _, test in folds) < len(labels):
                raise DataError(f"{manifest.source}: some fold would teach one class alone; classes need more groups")
            for name, method in PROBE_CLASSIFIERS.items():
                started = time.perf_counter()
                with threadpool_limits(1, "blas"):  # sharing so little work takes longer than doing it
                    probs_NK = _cross_validated(method, features, labels, groups, folds, len(rows.classes))
                with widen_for_pooled_folds():
                    figures = score_multiclass(
                        labels, probs_NK, classes=rows.classes, groups=groups if grouped else None
                    )
                low, high = figures["top1_ci"]
                took = time.perf_counter() - started
                found.append(ProbeResult(backbone, name, figures["top1"], (low, high), seconds, took))
                shown.print_line(f"  {name}: {figures['top1']:.3f} ({low:.3f} to {high:.3f}), {took:.1f} s")
    return sorted(found, key=lambda each: -each.top1)


def _all_train(manifest: Manifest) -> np.ndarray:
    return np.full(len(manifest) - len(manifest.rows("test")), "train")


def _folds(manifest: Manifest) -> int:
    """Five, or one for each group or file where there are fewer."""
    return max(2, min(FOLDS, len(np.unique(fold_units(manifest)))))


def _features(
    recipe: Recipe, manifest: Manifest, backbone: str, display: Display
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Of the rows that can be read: features (N, T, D), labels, groups, and the seconds that features took."""
    settings = recipe.model.model_copy(update={"backbone": backbone, "temporal": "mean", "fusion": "late"})
    recipe = recipe.model_copy(update={"model": settings})
    torch.manual_seed(recipe.seed)
    model = new_model(recipe, manifest)
    device = resolve_device(recipe.train.device)
    model.to(device).eval()
    recipe = recipe.model_copy(update={"clip": recipe.clip.model_copy(update={"size": model.size})})
    facts = load_file_facts(manifest, recipe, display)
    set_trainable(model, "head")
    precision = resolve_precision(recipe.train.precision, device)
    frozen = frozen_part(model, recipe.clip.num_frames, precision=precision, storage_dtype=recipe.train.cache_dtype)
    assert frozen is not None
    dataset = ClipDataset(manifest, "train", clip=recipe.clip, facts=facts, packed=recipe.data.packed)
    started = time.perf_counter()
    with ExitStack() as held:
        root = cache_root(recipe.train.cache_dir)
        if recipe.train.cache == "off":
            root = Path(held.enter_context(TemporaryDirectory()))
        kept = held.enter_context(open_cached_clips(root, cache_key(model, frozen), frozen, dataset))
        needed_bytes = kept.lacking() * kept.store.record
        if problem := make_room(root, needed_bytes, budget_gb=recipe.train.cache_budget_gb):
            raise RunError(f"{backbone}: {problem}; raise it, or make room")
        fill_cache(
            model, frozen, kept, recipe.data, watch=lambda done, rows: display.show_cache_progress(backbone, done, rows)
        )
        features, rows = _read(kept)
    seconds = time.perf_counter() - started
    return features, manifest.labels[rows], fold_units(manifest)[rows], seconds


def _read(kept: CachedClips) -> tuple[np.ndarray, np.ndarray]:
    """All that is kept (N, T, D), and of which rows it is."""
    positions = [number for number, row in enumerate(kept.dataset.rows.tolist()) if row not in kept.failed]
    if not positions:
        raise DataError(f"{kept.dataset.manifest.source}: none of its files can be read")
    features = kept.store.read(kept.places_NV[positions, 0]).float().numpy()
    return features, kept.dataset.rows[positions]


def _split_folds(labels: np.ndarray, groups: np.ndarray, folds: int, *, seed: int) -> list[Fold]:
    """Folds of whole groups, classes spread evenly; those that teach one class alone are left out."""
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        return []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        pairs = list(splitter.split(labels, labels, groups))
    return [(learn, test) for learn, test in pairs if len(test) and len(np.unique(labels[learn])) > 1]


def _cross_validated(
    method: ProbeClassifier,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    folds: Sequence[Fold],
    num_classes: int,
) -> np.ndarray:
    """Probabilities (N, K) of all rows, each by a classifier that has seen no row of its group."""
    probs_NK = np.zeros((len(labels), num_classes))
    for learn, test in folds:
        setting = _select_setting(method, features[learn], labels[learn], groups[learn])
        _put(probs_NK, test, labels[learn], method.predict(features[learn], labels[learn], features[test], setting))
    return probs_NK


def _select_setting(method: ProbeClassifier, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """The setting that is right most often in folds of these rows; of equals the most cautious."""
    if len(method.settings) == 1:
        return method.settings[0]
    folds = _split_folds(labels, groups, INNER_FOLDS, seed=0)[: method.inner_folds]
    right = []
    for setting in method.settings:
        probs_NK = np.zeros((len(labels), int(labels.max()) + 1))
        for learn, test in folds:
            found = method.predict(features[learn], labels[learn], features[test], setting)
            _put(probs_NK, test, labels[learn], found)
        right.append(sum(int((probs_NK[test].argmax(1) == labels[test]).sum()) for _, test in folds))
    return method.settings[int(np.argmax(right))]


def _put(probs_NK: np.ndarray, rows: np.ndarray, learnt: np.ndarray, found: np.ndarray) -> None:
    probs_NK[np.ix_(rows, np.unique(learnt))] = found


def _logistic(learn: np.ndarray, labels: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
    """Of vectors (N, D); `strength` is the inverse of the regularisation's."""
    steps = [StandardScaler()]
    if learn.shape[1] > PCA_MIN_WIDTH:
        steps.append(PCA(min(MOST_COMPONENTS, *learn.shape), random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest settings, which lose
        model = make_pipeline(*steps, LogisticRegression(C=strength, max_iter=300)).fit(learn, labels)
    return model.predict_proba(test)


def _knn(learn: np.ndarray, labels: np.ndarray, test: np.ndarray, count: float) -> np.ndarray:
    model = KNeighborsClassifier(min(int(count), len(learn)), metric="cosine").fit(learn, labels)
    return model.predict_proba(test)


def _attentive(learn: np.ndarray, labels: np.ndarray, test: np.ndarray, lr: float) -> np.ndarray:
    """Attention over the frames with their positions, and a linear layer; see `finetune.model.temporal_pooling`."""
    classes, targets = np.unique(labels, return_inverse=True)
    seed_device(0, torch.device("cpu"))
    pooling, width = build_pooling("attention", learn.shape[2], num_frames=learn.shape[1])
    head = nn.Sequential(pooling, nn.Dropout(0.5), nn.Linear(width, len(classes)))
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, HEAD_STEPS)
    features, truth = torch.from_numpy(learn), torch.from_numpy(targets)
    order = np.random.default_rng(0)
    size = count_multiplications(head, lambda: head(features[:1]))
    with limit_threads(small=fits_one_thread(size * BATCH_SIZE)):
        for _ in range(HEAD_STEPS):
            rows = torch.from_numpy(order.choice(len(learn), min(BATCH_SIZE, len(learn)), replace=False))
            F.cross_entropy(head(features[rows]), truth[rows]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        with torch.inference_mode():
            return head.eval()(torch.from_numpy(test)).softmax(1).numpy()


def _with_flatten(predict: Predict, flatten: Callable[[np.ndarray], np.ndarray]) -> Predict:
    return lambda learn, labels, test, setting: predict(flatten(learn), labels, flatten(test), setting)


def _mean(features_NTD: np.ndarray) -> np.ndarray:
    return features_NTD.mean(1)


def _in_order(features_NTD: np.ndarray) -> np.ndarray:
    return features_NTD.reshape(len(features_NTD), -1)


LOGISTIC_CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PROBE_CLASSIFIERS = {
    "logistic, mean of frames": ProbeClassifier(LOGISTIC_CS, _with_flatten(_logistic, _mean)),
    "logistic, frames in order": ProbeClassifier(LOGISTIC_CS, _with_flatten(_logistic, _in_order)),
    "nearest neighbours": ProbeClassifier((10, 5, 3, 1), _with_flatten(_knn, _mean)),
    "attentive head": ProbeClassifier((1e-3, 3e-3), _attentive, inner_folds=1),
}
