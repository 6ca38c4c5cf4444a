"""Embed clips with a frozen pretrained backbone: its features of the frames, pooled over time without any training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.manifest import Manifest
from finetune.feature_cache.backbone_features import backbone_features
from finetune.feature_cache.fill import ProgressCallback
from finetune.feature_cache.frozen_part import cut_activations, feature_part, hash_tensors
from finetune.model.backbone.frame_fusion import PICTURES
from finetune.model.classifier import build_from_settings
from finetune.recipe.schema import Recipe
from finetune.retrieval.build_plan import WindowLengths
from finetune.retrieval.embedder import Embedded, Progress, WindowVector, embedded, open_rows
from finetune.retrieval.frozen_settings import check_frozen_settings
from finetune.retrieval.recording_windows import RecordingWindows, open_recording, window_vectors
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.timeline.one_pass import NumberedPictures, window_inputs
from finetune.vector_index.entry import EmbeddingSource

ROWS_PER_PART = 1024  # whose features are in memory together


class BackboneEmbedder:
    """Embeds clips by the sections `clip` and `model` of a recipe, one view each. Features are kept in the cache."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises RecipeError as `check_frozen_settings` does, and ModelError for missing weights."""
        check_frozen_settings(recipe)
        fusion = recipe.model.fusion if recipe.model.fusion in PICTURES else "late"  # others must be trained
        settings = recipe.model.model_copy(update={"fusion": fusion})
        torch.manual_seed(recipe.seed)
        frames, size = recipe.clip.num_frames, recipe.clip.size
        model = build_from_settings(settings, ("0", "1"), num_frames=frames, size=size)  # its head is not used
        device = resolve_device(recipe.train.device)
        self.model = model.to(device).eval()
        self.clip = recipe.clip.model_copy(update={"size": model.size})
        self.recipe = recipe.model_copy(update={"tasks": {}, "clip": self.clip, "model": settings})
        precision = resolve_precision(recipe.train.precision, device)
        self.frozen = feature_part(model, frames, precision=precision, storage_dtype=recipe.train.cache_dtype)
        dim = self._pool(torch.zeros(1, *self.frozen.cut.item)).shape[1]
        described = {
            "clip": self.clip.model_dump(mode="json"),
            "model": {name: str(getattr(settings, name)) for name in ("backbone", "weights", "temporal", "fusion")},
            "seed": recipe.seed if settings.weights == "none" else 0,
        }
        weights = hash_tensors(model.backbone.state_dict())
        self.source = EmbeddingSource("backbone", str(settings.backbone), weights, dim, described)

    def embed(
        self, clips: Manifest, rows: np.ndarray | None = None, *, progress: Progress | None = None
    ) -> Iterator[Embedded]:
        """The vectors of `rows` (R,), by default of all, see `Embedder`."""
        dataset, bad = open_rows(clips, self.clip, rows)
        yield from (Embedded(row, None, reason) for row, reason in bad.items())
        done, total = len(bad), len(bad) + len(dataset)
        for first in range(0, len(dataset), ROWS_PER_PART):
            part = dataset.with_rows_and_draws(np.arange(first, min(first + ROWS_PER_PART, len(dataset))))
            watch = _watch_part(progress, done, len(part), total)
            features = backbone_features(self.model, self.frozen, part, self.recipe, watch=watch)
            yield from (Embedded(row, None, reason) for row, reason in features.failed.items())
            pooled_ND = self._pool(torch.from_numpy(features.features_NTD))
            for row, features_D in zip(features.rows.tolist(), pooled_ND, strict=True):
                yield embedded(row, features_D, clips.clip_name(row))
            done += len(part)
        if progress is not None:
            progress(total, total)

    def embed_windows(
        self,
        recording: Path,
        lengths: WindowLengths,
        *,
        first_window: int = 0,
        progress: Callable[[float, float], None] | None = None,
    ) -> Iterator[WindowVector]:
        """The vector of each window of a recording, see `Embedder`."""
        rate = self.recipe.data.image_rate
        opened = open_recording(recording, self.clip, lengths, first_window=first_window, image_rate=rate)
        with closing(opened.pictures()) as pictures:
            yield from window_vectors(opened, self._window_features(opened, pictures), progress)

    def _window_features(self, opened: RecordingWindows, pictures: Iterable[NumberedPictures]) -> Iterator[np.ndarray]:
        windows = window_inputs(self.model, pictures, opened.windows.sampled_WVT, precision=self.frozen.precision)
        for inputs_BVT, cut in windows:
            inputs_BT = inputs_BVT[:, 0]
            yield self._pool(inputs_BT if cut is not None else cut_activations(self.model, inputs_BT, self.frozen))

    @torch.inference_mode()
    def _pool(self, features_BTD: Tensor) -> np.ndarray:
        """From the features of time steps to a vector per clip, (B, D), not normalised."""
        pooled_BD: Tensor = self.model.temporal(features_BTD.float().to(self.model.device))
        return pooled_BD.cpu().numpy()


def _watch_part(progress: Progress | None, done: int, part_rows: int, total: int) -> ProgressCallback:
    """Reports the progress within a part, in which rows that are in the cache count as done, but not the last row."""

    def watch(computed: int, missing: int) -> None:
        if progress is not None and computed < missing:
            progress(done + part_rows - missing + computed, total)

    return watch
