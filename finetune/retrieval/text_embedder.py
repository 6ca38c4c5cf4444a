"""Embed clips and words in one space, so that words find clips: each frame by itself, averaged over the clip."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.recipe.schema import Recipe
from finetune.retrieval.build_plan import WindowLengths
from finetune.retrieval.embedder import Embedded, Progress, WindowVector, embedded, open_rows
from finetune.retrieval.recording_windows import open_recording, window_vectors
from finetune.retrieval.two_towers import TwoTowers
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.runtime.threads import run_ahead
from finetune.timeline.one_pass import windows_of_values
from finetune.vector_index.entry import EmbeddingSource
from finetune.video.dataset import ClipDataset, indices_of_views

CLIPS_AHEAD = 2  # decoded and prepared while the network computes


class TextEmbedder:
    """Embeds clips by a model of open_clip, and words. Of a recipe it takes `clip`, `model.backbone` and `weights`.

    Pictures have the model's own size and proportions, whatever `clip.size` and `clip.fit` say.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Raises ModelError as `TwoTowers` does."""
        backbone, weights = str(recipe.model.backbone), str(recipe.model.weights)
        device = resolve_device(recipe.train.device)
        precision = resolve_precision(recipe.train.precision, device)
        self.towers = TwoTowers(backbone, weights, device=device, precision=precision)
        self.clip = recipe.clip.model_copy(update={"size": self.towers.size})
        self.recipe = recipe
        settings = {
            "clip": self.clip.model_dump(mode="json"),
            "model": {"backbone": backbone, "weights": weights},
            "preprocessing": self.towers.preprocessing,
        }
        self.source = EmbeddingSource("text", backbone, self.towers.hash(), self.towers.dim, settings)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (Q, D) of texts, float32 of length 1. Raises ModelError for an empty or a too long text."""
        return self.towers.embed_texts(texts)

    def embed(
        self, clips: Manifest, rows: np.ndarray | None = None, *, progress: Progress | None = None
    ) -> Iterator[Embedded]:
        """The vectors of `rows` (R,), by default of all, see `Embedder`."""
        dataset, bad = open_rows(clips, self.clip, rows)
        yield from (Embedded(row, None, reason) for row, reason in bad.items())
        done, total = len(bad), len(bad) + len(dataset)
        with closing(run_ahead(self._prepared_clips(dataset), ahead=CLIPS_AHEAD)) as prepared:
            for row, pictures in prepared:
                if isinstance(pictures, VideoError):
                    yield Embedded(row, None, str(pictures))
                else:
                    mean_D = self.towers.embed_pictures(pictures).mean(0).numpy()
                    yield embedded(row, mean_D, clips.clip_name(row))
                done += 1
                if progress is not None:
                    progress(done, total)

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
        with closing(opened.pictures(self.towers.prepare)) as pictures:
            values = ((numbers, self.towers.embed_pictures(prepared)) for numbers, prepared in pictures)
            windows = windows_of_values(values, opened.windows.sampled_WVT)
            yield from window_vectors(opened, (frames_BVTD[:, 0].mean(1).numpy() for frames_BVTD in windows), progress)

    def _prepared_clips(self, dataset: ClipDataset) -> Iterator[tuple[int, Tensor | VideoError]]:
        """Each row with its frames as inputs of the picture tower (T, 3, S, S), or why they cannot be read."""
        for row in dataset.rows.tolist():
            try:
                frames_TCHW = _frames_at_own_size(dataset, row)
                yield row, torch.stack([self.towers.prepare(picture) for picture in frames_TCHW.transpose(0, 2, 3, 1)])
            except VideoError as error:
                yield row, error


def _frames_at_own_size(dataset: ClipDataset, row: int) -> np.ndarray:
    """The frames (T, 3, H, W) of a row's only view, not scaled. Raises VideoError where they cannot be read."""
    path, source = dataset.manifest.path(row), dataset.row_source(row)
    num_frames = int(dataset.facts.num_frames[row])
    (indices,) = indices_of_views(path, dataset.clip, 1, num_frames, source=source)
    frames_TCHW, _ = source.read(path, indices, size=None)
    return frames_TCHW
