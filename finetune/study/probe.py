"""Probes: how well simple classifiers do on the features of frozen backbones, before anything is trained.

Each backbone sees each clip once, as in an evaluation, and its features are cached. Classifiers are cross-validated by
whole groups on them; their hyperparameters are chosen in inner folds of each fold's training rows, so that no row is
predicted with a setting that was chosen on it. Test clips are not used, as they must not choose even a backbone.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from finetune.data.manifest import Manifest
from finetune.errors import DataError, RecipeError
from finetune.feature_cache.backbone_features import backbone_features
from finetune.feature_cache.frozen_part import frozen_part
from finetune.metrics.classification import score_multiclass
from finetune.metrics.intervals import widen_for_pooled_folds
from finetune.model.backbone.frame_fusion import PICTURES
from finetune.model.freezing.freeze import set_trainable
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import Multitask
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.study.folds import fold_rows, fold_units
from finetune.study.probe_classifiers import INNER_FOLDS, PROBE_CLASSIFIERS, ProbeClassifier
from finetune.train.from_recipe import new_model
from finetune.train.log.console import Display
from finetune.train.setup.preflight import load_file_facts
from finetune.video.dataset import ClipDataset

FOLDS = 5
Fold = tuple[np.ndarray, np.ndarray]  # training rows, test rows


@dataclass(frozen=True)
class ProbeResult:
    """The accuracy of one classifier on one backbone's features, as shares, and the seconds that both took."""

    backbone: str
    method: str
    top1: float
    interval: tuple[float, float]
    seconds_of_features: float
    seconds: float


@dataclass(frozen=True, eq=False)
class _Features:
    """Features (N, T, D) of N clips of T frames, with their labels (N,) and groups (N,), and the time they took."""

    features_NTD: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    seconds: float

    def at(self, rows: np.ndarray) -> "_Features":
        return replace(self, features_NTD=self.features_NTD[rows], labels=self.labels[rows], groups=self.groups[rows])


def majority_baseline(manifest: Manifest) -> dict[str, Any]:
    """The most frequent class of the rows that are probed, and its share."""
    manifest = of_one_task(manifest)
    counts = np.bincount(manifest.without(manifest.rows("test")).labels, minlength=len(manifest.classes))
    return {"class": manifest.classes[int(counts.argmax())], "top1": float(counts.max() / counts.sum())}


def of_one_task(manifest: Manifest) -> Manifest:
    """The rows with a class of the probed task: the first with classes. Raises RecipeError where no task has any."""
    if not manifest.classes:
        raise RecipeError("a probe classifies, but no task has classes; train the run, with unfreeze: head")
    unlabelled = (manifest.labels >= len(manifest.classes)) & (manifest.targets is None)
    return replace(manifest, tasks={}).without(np.flatnonzero(unlabelled))


def probe(
    recipe: Recipe, manifest: Manifest, backbones: Sequence[str], *, display: Display | None = None
) -> list[ProbeResult]:
    """Cross-validate every classifier on the frozen features of every backbone, without test rows; the best first.

    Of the recipe, the clips, weights and cache settings are used. Raises DataError where there are too few rows or
    groups, or files cannot be read, and RecipeError for rows with several classes.
    """
    recipe, manifest = recipe.model_copy(update={"tasks": {}, "multitask": Multitask()}), of_one_task(manifest)
    if manifest.targets is not None:
        raise RecipeError("a probe needs clips with one class each; leave out data.multilabel")
    rows = manifest.without(manifest.rows("test"))
    rows = replace(rows, splits=np.full(len(rows), "train"))
    num_folds = _num_folds(rows)
    fold_rows(rows, num_folds, seed=recipe.seed)  # raises before features are computed
    results = []
    with display or Display(quiet=True) as shown:
        for backbone in backbones:
            shown.print_line(backbone)
            clips = _compute_features(recipe, rows, backbone, shown)
            folds = _split_folds(clips, num_folds, seed=recipe.seed)
            if sum(len(test) for _, test in folds) < len(clips.labels):
                raise DataError(f"{manifest.source}: a fold has training clips of one class only; it needs more groups")
            for name in PROBE_CLASSIFIERS:
                result = _cross_validate(backbone, name, clips, folds, rows)
                low, high = result.interval
                shown.print_line(f"  {name}: {result.top1:.3f} ({low:.3f} to {high:.3f}), {result.seconds:.1f} s")
                results.append(result)
    return sorted(results, key=lambda result: -result.top1)


def _num_folds(manifest: Manifest) -> int:
    """FOLDS, or the number of groups or files where there are fewer, at least two."""
    return max(2, min(FOLDS, len(np.unique(fold_units(manifest)))))


def _compute_features(recipe: Recipe, manifest: Manifest, backbone: str, display: Display) -> _Features:
    """Features of the rows that can be read, computed or read from the cache."""
    # Grey stacks are another input. The other fusions change the network, which a frozen one has not been trained for.
    fusion = recipe.model.fusion if recipe.model.fusion in PICTURES else "late"
    settings = recipe.model.model_copy(update={"backbone": backbone, "temporal": "mean", "fusion": fusion})
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
    dataset = ClipDataset(manifest, "train", clip=recipe.clip, views=1, facts=facts, packed=recipe.data.packed)
    started = time.perf_counter()
    features = backbone_features(
        model, frozen, dataset, recipe, watch=lambda done, rows: display.show_progress(backbone, done, rows)
    )
    if not len(features.rows):
        raise DataError(f"{manifest.source}: none of its files can be read")
    seconds, rows = time.perf_counter() - started, features.rows
    return _Features(features.features_NTD, manifest.labels[rows], fold_units(manifest)[rows], seconds)


def _split_folds(clips: _Features, num_folds: int, *, seed: int) -> list[Fold]:
    """Folds of whole groups with classes spread evenly, without folds whose training rows have only one class."""
    num_folds = min(num_folds, len(np.unique(clips.groups)))
    if num_folds < 2:
        return []
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        pairs = list(splitter.split(clips.labels, clips.labels, clips.groups))
    return [(train, test) for train, test in pairs if len(test) and len(np.unique(clips.labels[train])) > 1]


def _cross_validate(
    backbone: str, name: str, clips: _Features, folds: Sequence[Fold], manifest: Manifest
) -> ProbeResult:
    """The cross-validated accuracy of a classifier; its interval counts groups, or files that are in several rows."""
    started = time.perf_counter()
    has_groups = manifest.groups is not None or len(np.unique(clips.groups)) < len(clips.groups)
    with threadpool_limits(1, "blas"):  # so little work takes longer on several threads
        probs_NK = _predict_folds(PROBE_CLASSIFIERS[name], clips, folds, len(manifest.classes))
    with widen_for_pooled_folds():
        metrics = score_multiclass(
            clips.labels, probs_NK, classes=manifest.classes, groups=clips.groups if has_groups else None
        )
    low, high = metrics["top1_ci"]
    seconds = time.perf_counter() - started
    return ProbeResult(backbone, name, metrics["top1"], (low, high), clips.seconds, seconds)


def _predict_folds(
    classifier: ProbeClassifier, clips: _Features, folds: Sequence[Fold], num_classes: int
) -> np.ndarray:
    """Probabilities (N, K) of all rows, each predicted by a classifier that was trained on no row of its group."""
    probs_NK = np.zeros((len(clips.labels), num_classes))
    for train, test in folds:
        setting = _select_setting(classifier, clips.at(train))
        _predict_fold(probs_NK, classifier, clips, (train, test), setting)
    return probs_NK


def _select_setting(classifier: ProbeClassifier, clips: _Features) -> float:
    """The setting with the most correct rows in folds of these clips; of equals the most regularized."""
    if len(classifier.settings) == 1:
        return classifier.settings[0]
    folds = _split_folds(clips, INNER_FOLDS, seed=0)[: classifier.inner_folds]
    num_correct = []
    for setting in classifier.settings:
        probs_NK = np.zeros((len(clips.labels), int(clips.labels.max()) + 1))
        for fold in folds:
            _predict_fold(probs_NK, classifier, clips, fold, setting)
        num_correct.append(sum(int((probs_NK[test].argmax(1) == clips.labels[test]).sum()) for _, test in folds))
    return classifier.settings[int(np.argmax(num_correct))]


def _predict_fold(
    probs_NK: np.ndarray, classifier: ProbeClassifier, clips: _Features, fold: Fold, setting: float
) -> None:
    """Fill in the test rows; a class without training rows keeps its 0."""
    train, test = fold
    features_NTD, labels = clips.features_NTD, clips.labels[train]
    probs_NK[np.ix_(test, np.unique(labels))] = classifier.predict(
        features_NTD[train], labels, features_NTD[test], setting
    )
