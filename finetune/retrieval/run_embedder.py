"""Embed clips with a run: the vectors that its network passes to its head."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from finetune.data.manifest import Manifest
from finetune.feature_cache.frozen_part import hash_tensors
from finetune.inference.forward import predict_batch
from finetune.inference.head_inputs import HeadInputs
from finetune.model.classifier import VideoClassifier
from finetune.retrieval.build_plan import WindowLengths
from finetune.retrieval.embedder import Embedded, Progress, WindowVector, embedded, open_rows
from finetune.retrieval.recording_windows import RecordingWindows, open_recording, window_vectors
from finetune.run.checkpoint import load_model
from finetune.run.read import Run, require_clip_task
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.timeline.one_pass import NumberedPictures, predict_windows
from finetune.vector_index.entry import EmbeddingSource
from finetune.video.row_loader import row_loader

EMBEDDING = "an embedding"


class RunEmbedder:
    """Embeds clips with the weights of a run and its clip settings, one view each."""

    def __init__(self, run: Run, *, model: VideoClassifier | None = None) -> None:
        """A `model` of the run that is given is not read again. Raises RunError as `require_clip_task` does."""
        self.run, self._task = run, require_clip_task(run, EMBEDDING)
        model = load_model(run) if model is None else model.eval()
        self.model = model.to(resolve_device(run.recipe.train.device))
        self.clip = run.recipe.clip.model_copy(update={"size": model.size})
        self.precision = resolve_precision(run.recipe.train.precision, model.device)
        black = torch.zeros((1, 1, model.num_frames, 3, model.size, model.size), dtype=torch.uint8)
        with HeadInputs(model, self._task) as inputs:
            predict_batch(model, black, precision=self.precision)
            dim = inputs.take().shape[1]
        settings = {"task": self._task, "clip": self.clip.model_dump(mode="json")}
        weights = hash_tensors(model.state_dict())
        self.source = EmbeddingSource("run", str(run.folder.resolve()), weights, dim, settings)

    def embed(
        self, clips: Manifest, rows: np.ndarray | None = None, *, progress: Progress | None = None
    ) -> Iterator[Embedded]:
        """The vectors of `rows` (R,), by default of all, see `Embedder`."""
        dataset, bad = open_rows(clips, self.clip, rows)
        yield from (Embedded(row, None, reason) for row, reason in bad.items())
        done, total = len(bad), len(bad) + len(dataset)
        with row_loader(dataset, self.run.recipe.data) as loader, HeadInputs(self.model, self._task) as inputs:
            for batch in loader:
                yield from (Embedded(row, None, reason) for row, reason in batch["skipped"])
                if batch["clips"] is not None:
                    predict_batch(self.model, batch["clips"], precision=self.precision)
                    for row, features_D in zip(batch["row"].tolist(), inputs.take(), strict=True):
                        yield embedded(row, features_D, clips.clip_name(row))
                done += len(batch["row"]) + len(batch["skipped"])
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
        rate = self.run.recipe.data.image_rate
        opened = open_recording(recording, self.clip, lengths, first_window=first_window, image_rate=rate)
        with closing(opened.pictures()) as pictures:
            yield from window_vectors(opened, self._window_features(opened, pictures), progress)

    def _window_features(self, opened: RecordingWindows, pictures: Iterable[NumberedPictures]) -> Iterator[np.ndarray]:
        with HeadInputs(self.model, self._task) as inputs:
            windows = predict_windows(self.model, pictures, opened.windows.sampled_WVT, precision=self.precision)
            for _ in windows:
                yield inputs.take()
