"""Features of clips from a frozen backbone: read from the cache, or computed and cached."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from finetune.errors import RunError
from finetune.feature_cache.cache_folder import cache_root, make_room
from finetune.feature_cache.cached_clips import open_cached_clips
from finetune.feature_cache.fill import ProgressCallback, fill_cache
from finetune.feature_cache.frozen_part import FrozenPart, cache_key
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Recipe
from finetune.video.dataset import ClipDataset


@dataclass(frozen=True, eq=False)
class BackboneFeatures:
    """Features (N, T, D), float32, of N `rows` of a manifest; `failed` says why other rows cannot be read, by row."""

    features_NTD: np.ndarray
    rows: np.ndarray
    failed: dict[int, str]


def backbone_features(
    model: VideoClassifier, frozen: FrozenPart, dataset: ClipDataset, recipe: Recipe, *, watch: ProgressCallback
) -> BackboneFeatures:
    """The first view of each row of a data set, at the cut after the backbone.

    They are kept in the cache, unless train.cache is `off`. Raises RunError where there is no room for them.
    """
    with ExitStack() as stack:
        root = cache_root(recipe.train.cache_dir)
        if recipe.train.cache == "off":
            root = Path(stack.enter_context(TemporaryDirectory()))
        cached = stack.enter_context(open_cached_clips(root, cache_key(model, frozen), frozen, dataset))
        needed_bytes = cached.lacking() * cached.store.record
        if problem := make_room(root, needed_bytes, budget_gb=recipe.train.cache_budget_gb):
            raise RunError(f"{recipe.model.backbone}: {problem}; raise it, free disk space, or set train.cache=off")
        fill_cache(model, frozen, cached, recipe.data, watch=watch)
        readable = [place for place, row in enumerate(dataset.rows.tolist()) if row not in cached.failed]
        places = cached.places_NV[readable, 0]
        features_NTD = (
            cached.store.read(places).float().numpy() if readable else np.empty((0, *frozen.cut.item), np.float32)
        )
        return BackboneFeatures(features_NTD, dataset.rows[readable], dict(cached.failed))
