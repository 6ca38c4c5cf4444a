"""Start a new head from a linear probe on the frozen features, with standardised inputs.

A head that is trained from random weights by a few epochs of SGD is worse than a logistic regression on the same
features, and its first gradients distort an unfrozen backbone (LP-FT, arXiv:2202.10054).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import RunError
from finetune.feature_cache.cache_folder import cache_root, make_room
from finetune.feature_cache.cached_clips import CachedClipLoader, CachedClips, open_cached_clips
from finetune.feature_cache.frozen_part import FrozenPart, cache_key, cut_activations, feature_part
from finetune.model.classifier import VideoClassifier
from finetune.model.frozen_prefix import forward_after_cut
from finetune.model.linear_fit import LinearFit, fit_linear
from finetune.model.standardized_head import can_be_standardized, first_linear, standardize_head
from finetune.model.temporal_pooling import ConcatPooling
from finetune.recipe.schema import Recipe
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.runtime.processes import on_main_then_broadcast
from finetune.train.loaders import TrainLoaders
from finetune.train.phase_data import SILENT, ProgressCallbacks, fill_all, run_on_all_ranks
from finetune.train.step import TrainSetup
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset
from finetune.video.loader import ClipLoader
from finetune.video.row_loader import row_loader

MAX_ROWS, MAX_NUMBERS = 4096, 2**25  # of the rows that a probe is fitted to, which bound its time and memory
MAX_MULTIPLICATIONS = 2e9  # of one evaluation of its loss
MIN_STD = 1e-3  # relative to the largest: a dimension that varies less is taken as constant


class _HeadInputs(NamedTuple):
    """Inputs of the head (N, D), targets (N, K), and the rows (N,) of the manifest that they belong to."""

    vectors_ND: Tensor
    targets_NK: Tensor
    rows: np.ndarray


@dataclass(frozen=True)
class HeadStart:
    """What a head was started from: the number of rows, and the fit, None where inputs were only standardised."""

    rows: int
    fit: LinearFit | None

    @property
    def record(self) -> dict[str, Any]:
        """The start as JSON, without weights."""
        if self.fit is None:
            return {"rows": self.rows}
        fit = self.fit
        return {
            "rows": self.rows,
            "C": fit.strength,
            "frame_freedom": fit.frame_freedom,
            "held_out_error": fit.held_out_error,
        }

    @property
    def words(self) -> str:
        if self.fit is None:
            return f"Head inputs standardised over {self.rows} clips"
        error = "" if self.fit.held_out_error is None else f", held-out error {self.fit.held_out_error:.3f}"
        return f"Head starts from a linear probe on {self.rows} clips (C = {self.fit.strength:g}{error})"


def start_head(setup: TrainSetup, loaders: TrainLoaders, shown: ProgressCallbacks = SILENT) -> HeadStart | None:
    """Standardise the head's inputs and set a linear head to the probe's weights; None where a head is left as it is.

    The features are those of training clips as evaluation sees them, at most MAX_ROWS. All processes have to call it
    together. Exceptions of `shown.progress` are passed on.
    """
    model, recipe = setup.model, setup.recipe
    if not (recipe.train.head_start == "probe" and model.has_new_heads and can_be_standardized(model)):
        return None
    training = model.training
    model.train(False)
    frozen = feature_part(
        model, recipe.clip.num_frames, precision=setup.precision, storage_dtype=recipe.train.cache_dtype
    )
    dataset = _rows_to_fit(model, loaders)
    with _feature_loader(model, frozen, dataset, loaders, shown) as loader:
        inputs = _head_inputs(model, frozen, loader)
    model.train(training)
    model.has_new_heads = False
    if inputs is None:
        return None
    mean_D, std_D = _statistics(inputs.vectors_ND)
    standardize_head(model, mean_D, std_D)
    fit = None
    if len([*model.heads[DEFAULT_TASK].children()]) == 2:  # dropout and the linear layer
        standardized = inputs._replace(vectors_ND=(inputs.vectors_ND - mean_D) / std_D)
        fit = on_main_then_broadcast(partial(_fit, standardized, model, loaders))
        linear = first_linear(model)
        with torch.no_grad():
            linear.weight.copy_(fit.weight_KD)
            linear.bias.copy_(fit.bias_K)
    setup.ema.start_run(model)
    return HeadStart(len(inputs.rows), fit)


def _fit(inputs: _HeadInputs, model: VideoClassifier, loaders: TrainLoaders) -> LinearFit:
    recipe, targets_NK = loaders.recipe, inputs.targets_NK
    return fit_linear(
        inputs.vectors_ND,
        targets_NK,
        units=loaders.manifest.units[inputs.rows],
        weights_N=_row_weights(targets_NK, recipe),
        independent=model.multilabel,
        frames=model.temporal.num_frames if isinstance(model.temporal, ConcatPooling) else 1,
    )


def _row_weights(targets_NK: Tensor, recipe: Recipe) -> Tensor:
    """Weights (N,) with a mean of 1: all alike, or, where the recipe balances classes, each class with the same sum."""
    balances = recipe.train.sampler == "balanced" or recipe.train.loss == "class_balanced"
    if not balances or recipe.data.multilabel:
        return torch.ones(len(targets_NK), dtype=targets_NK.dtype)
    weights_N = (targets_NK / targets_NK.sum(0).clamp_min(1)).sum(1)
    return weights_N / weights_N.mean()


def _rows_to_fit(model: VideoClassifier, loaders: TrainLoaders) -> ClipDataset:
    """The training clips as evaluation sees them; where they are too many, as many as can be fitted, at random."""
    recipe = loaders.recipe
    dataset = ClipDataset(
        loaders.manifest, "train", clip=recipe.clip, views=1, facts=loaders.facts, packed=recipe.data.packed
    )
    outputs, width = first_linear(model).weight.shape
    most = min(MAX_ROWS, MAX_NUMBERS // width, int(MAX_MULTIPLICATIONS / (width * outputs)))
    if len(dataset.rows) > most:
        order = np.random.default_rng(recipe.seed).permutation(len(dataset.rows))
        dataset.rows = dataset.rows[np.sort(order[:most])]
    return dataset


@contextmanager
def _feature_loader(
    model: VideoClassifier, frozen: FrozenPart, dataset: ClipDataset, loaders: TrainLoaders, shown: ProgressCallbacks
) -> Iterator[ClipLoader | CachedClipLoader]:
    """A loader of cached features, or of clips where caching is off or impossible."""
    with ExitStack() as held:
        cached = None
        if loaders.recipe.train.cache != "off":
            cached = _filled_cache(model, frozen, dataset, loaders, shown, held)
        if cached is None:
            yield held.enter_context(row_loader(dataset, loaders.recipe.data))
        else:
            yield CachedClipLoader(cached, EpochBatchSampler(len(dataset), 1, seed=0, shuffle=False))


def _filled_cache(
    model: VideoClassifier,
    frozen: FrozenPart,
    dataset: ClipDataset,
    loaders: TrainLoaders,
    shown: ProgressCallbacks,
    held: ExitStack,
) -> CachedClips | None:
    """The cached features, computed where they are missing; None where the cache cannot be used."""
    train = loaders.recipe.train
    root = cache_root(train.cache_dir)
    try:
        cached = run_on_all_ranks(
            lambda: held.enter_context(open_cached_clips(root, cache_key(model, frozen), frozen, dataset))
        )
        needed_bytes = cached.lacking() * cached.store.record
        problem = on_main_then_broadcast(lambda: make_room(root, needed_bytes, budget_gb=train.cache_budget_gb) or "")
        if not problem:
            fill_all(model, frozen, (cached,), loaders, shown)
    except RunError as error:
        problem = str(error)
    if problem:
        shown.print_line(f"Not cached: {problem}")
    return None if problem else cached


@torch.no_grad()
def _head_inputs(
    model: VideoClassifier, frozen: FrozenPart, loader: ClipLoader | CachedClipLoader
) -> _HeadInputs | None:
    """The inputs of the head for all rows that can be read; None where there are too few, or one is no number."""
    vectors, targets, rows = [], [], []
    for batch in loader:
        if batch["clips"] is None:
            continue
        activations = batch["clips"].flatten(0, 1)
        if activations.dtype == torch.uint8:
            activations = cut_activations(model, activations, frozen)
        features = forward_after_cut(model, activations.to(model.backbone.mean.device), frozen.cut)
        vectors.append(model.temporal(features.float()).double().cpu())
        targets.append(batch["label"])
        rows.append(batch["row"])
    if len(rows) < 2 or not all(bool(vector.isfinite().all()) for vector in vectors):
        return None
    labels = torch.cat(targets)
    targets_NK = labels if labels.ndim == 2 else F.one_hot(labels, len(model.classes))
    return _HeadInputs(torch.cat(vectors), targets_NK.double(), torch.cat(rows).numpy())


def _statistics(vectors_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension (D,); 1 for those that are constant."""
    std_D = vectors_ND.std(0, correction=0)
    return vectors_ND.mean(0), torch.where(std_D > MIN_STD * std_D.max(), std_D, 1.0)
