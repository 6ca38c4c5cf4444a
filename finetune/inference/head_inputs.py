"""The vectors that a model passes to its heads: the features of clips before they are classified."""

from __future__ import annotations

from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.model.classifier import VideoClassifier


class HeadInputs:
    """Within the block, keeps the vectors that the head of a task is given, by default of the primary task.

    Several threads may compute batches at the same time: each takes those of its own.
    """

    def __init__(self, model: VideoClassifier, task: str | None = None) -> None:
        self._task = model.primary if task is None else task
        _ = model.fits_one_thread  # its first use passes a black clip through the heads
        self._handle = model.heads.register_forward_pre_hook(self._keep)
        self._given: dict[int, list[Tensor]] = {}  # by thread

    def _keep(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        (vectors,) = inputs
        self._given.setdefault(get_ident(), []).append(vectors if isinstance(vectors, Tensor) else vectors[self._task])

    def take(self) -> np.ndarray:
        """The vectors (B, D) since the last call in this thread, as the mean over views."""
        mean_BD: np.ndarray = torch.stack(self._given.pop(get_ident())).float().mean(0).cpu().numpy()
        return mean_BD

    def __enter__(self) -> HeadInputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
