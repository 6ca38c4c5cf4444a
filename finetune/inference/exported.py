"""An exported model in its runtime, in the place of a run's network; nothing else decides which of them predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import RunError, reason_of
from finetune.inference.exported_session import Session, open_session
from finetune.model.classifier import VideoClassifier
from finetune.recipe.tasks import OutputSpec
from finetune.run.checkpoint import load_model
from finetune.run.model_json import ModelInfo, outputs_by_task
from finetune.run.read import Run
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.runtime.threads import SINGLE_THREAD_MULTIPLICATIONS, fits_one_thread


def load_for_inference(run: Run) -> InferenceModel:
    """The best checkpoint's network on its device, in evaluation mode, or the exported model of an exported folder."""
    device = resolve_device(run.recipe.train.device)
    return load_model(run).to(device) if run.exported is None else open_exported(run)


def open_exported(run: Run) -> ExportedModel:
    """The model of an exported folder, which may come from somebody else.

    Raises RunError for a .pt2 file, because torch.export.load runs code that such a file can contain.
    """
    info = run.exported
    assert info is not None
    if info["runtime"] == "torch":
        raise RunError(
            f"{run.folder / info['file']}: is not opened, because torch.export.load can run code that a file contains; "
            "export the run to onnx or openvino, or load a file that you trust yourself, as README.md beside it shows"
        )
    names = [output["name"] for output in info["outputs"]]
    threads = 1 if _fits_one_thread(info) else torch.get_num_threads()
    session = open_session(run.folder, info["runtime"], names, precision=info["precision"], threads=threads)
    return ExportedModel(session, info, run.outputs, where=str(run.folder / info["file"]))


def _fits_one_thread(info: ModelInfo) -> bool:
    """Whether one thread is fastest for a clip, so that threads should compute several clips at once instead."""
    return fits_one_thread(info.get("multiplications", SINGLE_THREAD_MULTIPLICATIONS))


def inference_precision(model: InferenceModel, setting: str) -> str:
    """The precision of predictions: that of an exported model's file, else by the recipe's `setting`."""
    if isinstance(model, ExportedModel):
        return model.precision
    return resolve_precision(setting, model.device)


def resolve_views(run: Run, views: int | None) -> int:
    """The number of views; None: the recipe's.

    Raises RunError where an exported model has another number inside, and for several views around one frame.
    """
    inside = 1 if run.exported is None else run.exported["clip"]["views"]
    views = run.recipe.evaluate.views if views is None else views
    if inside not in (1, views):
        raise RunError(f"{run.folder}: combines {inside} views inside the model, not {views}; omit --views")
    if views > 1 and run.recipe.clip.sampling == "around":
        raise RunError(
            f"{run.folder}: all views around a frame are the same, so there is one, not {views}; omit --views"
        )
    return views


class ExportedModel(nn.Module):
    """Stands for a VideoClassifier in forward passes: uint8 clips (B, T, C, H, W) to {task: outputs (B, K)}.

    With `views` > 1 in the model, clips are (B, V, T, C, H, W) and outputs (B, V, K), or (B, K) for numbers that the
    model averages. Classes have logits. Numbers have their own units, so `outputs` scale them by 1.
    """

    def __init__(self, session: Session, info: ModelInfo, outputs: Mapping[str, OutputSpec], *, where: str) -> None:
        super().__init__()
        self.session, self.info, self.where = session, info, where
        clip = info["clip"]
        self.views, self.size, self.num_frames, self.consensus = (
            clip["views"],
            clip["size"],
            clip["num_frames"],
            clip["consensus"],
        )
        self.primary = info["primary"]
        self.fits_one_thread = self.runs_in_threads = _fits_one_thread(info)
        self.device = torch.device("cpu")
        precision = "int8" if info.get("int8") else info["precision"]
        self.precision = f"{precision}, {info['runtime']}"
        self.outputs = {
            task: replace(output, center=(0.0,) * len(output.center), scale=(1.0,) * len(output.scale))
            for task, output in outputs.items()
        }

    def forward(self, clips: Tensor, cut: None = None) -> dict[str, Tensor]:
        try:
            values = self.session(clips.numpy())
        except Exception as error:  # each runtime has own exceptions
            raise RunError(
                f"{self.where}: fails on clips {tuple(clips.shape)}: {reason_of(error)}; export the run again"
            ) from error
        for output in self.info["outputs"]:
            self._check(output["name"], values[output["name"]], (len(clips), *output["shape"][1:]))
        return {task: torch.from_numpy(value) for task, value in outputs_by_task(self.info, values).items()}

    def _check(self, name: str, values: np.ndarray, shape: tuple[object, ...]) -> None:
        if values.shape != shape or values.dtype != np.float32:
            raise RunError(
                f"{self.where}: gives {values.dtype} {values.shape} as its output {name!r}, but float32 {shape} is in "
                "model.json; export the run again"
            )


InferenceModel = VideoClassifier | ExportedModel
