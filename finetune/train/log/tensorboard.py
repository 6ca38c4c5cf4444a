"""What a run writes to TensorBoard: curves, training clips, a confusion matrix, gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from finetune.model.classifier import VideoClassifier
from finetune.report.svg import ignore_missing_glyphs

CLIPS_SHOWN, PIXELS_SHOWN, CLASSES_SHOWN = 4, 112, 40
CURVES = ("train_loss", "train_top1", "val_loss", "val_top1", "val_map", "val_score", "clips_per_second")


class TensorBoardWriter:
    """Writes a run's `tensorboard/`; epochs after `epochs`, which an interrupted run wrote, are hidden."""

    def __init__(self, folder: Path, *, epochs: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=epochs + 1)

    def epoch(self, record: dict[str, Any]) -> None:
        """Write the numbers of a line of metrics.jsonl as curves of the run and of its phase."""
        for name in CURVES:
            if record.get(name) is not None:
                self.writer.add_scalar(name, record[name], record["epoch"])
                self.writer.add_scalar(f"phase {record['phase'] + 1}/{name}", record[name], record["epoch"])
        for task, metrics in record.get("tasks", {}).items():
            for name, value in metrics.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{task}/{name}", value, record["epoch"])
        for group in ("weights", "cosines"):
            for name, value in record.get(group, {}).items():
                if value is not None:
                    self.writer.add_scalar(f"{group}/{name}", value, record["epoch"])
        for stage, rate in record["lr"].items():
            self.writer.add_scalar(f"lr/{stage}", rate, record["epoch"])
        for part, seconds in record["seconds"].items():
            self.writer.add_scalar(f"seconds/{part}", seconds, record["epoch"])
        self.writer.flush()

    def clips(self, clips_BTCHW: Tensor, names: Sequence[str], *, phase: int, epoch: int) -> None:
        """Write the first clips of a batch, uint8 (B, T, C, H, W), before mixup; each is one row of frames."""
        shown = clips_BTCHW[:CLIPS_SHOWN].detach().float().cpu() / 255
        frames = torch.nn.functional.interpolate(shown.flatten(0, 1), size=(PIXELS_SHOWN, PIXELS_SHOWN))
        picture = make_grid(frames, nrow=shown.shape[1], padding=1, pad_value=1.0)
        self.writer.add_image(f"clips/phase {phase + 1}", picture, epoch)
        self.writer.add_text(f"clips/phase {phase + 1}", "  \n".join(names[:CLIPS_SHOWN]), epoch)

    def gradients(self, model: VideoClassifier, *, epoch: int) -> None:
        """Write a histogram of the gradients of each trainable stage."""
        parameters = dict(model.named_parameters())
        for name, stage in model.stages.items():
            gradients = [parameters[parameter].grad for parameter in stage.parameters]
            parts = [gradient.detach().float().flatten().cpu() for gradient in gradients if gradient is not None]
            if parts:
                self.writer.add_histogram(f"gradients/{name}", torch.cat(parts), epoch)

    @matplotlib.rc_context({"font.size": 8})
    def confusion(self, classes: Sequence[str], labels_N: np.ndarray, predicted_N: np.ndarray, *, epoch: int) -> None:
        """Write the confusion matrix of the split val; rows are true classes. Skipped above CLASSES_SHOWN classes."""
        if len(classes) > CLASSES_SHOWN:
            return
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(counts, (labels_N, predicted_N), 1)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        side = 2.5 + 0.3 * len(classes)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*counts.nonzero(), strict=True):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink)
        axes.set_xticks(range(len(classes)), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        with ignore_missing_glyphs():
            self.writer.add_figure("confusion on val", figure, epoch)

    def close(self) -> None:
        self.writer.close()
