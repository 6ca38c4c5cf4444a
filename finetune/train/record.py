"""What a run writes down while it trains: figures of an epoch, metrics.jsonl, TensorBoard, skipped.json."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from finetune.files import write_json
from finetune.manifest import Manifest
from finetune.video.facts import Facts
from finetune.video.loader import ClipLoader


class Tally:
    """Sums over one epoch, this process's share."""

    def __init__(self) -> None:
        self.clips, self.right, self.total_loss = 0, 0, 0.0
        self.factors: list[float] = []
        self.seconds = {"data": 0.0, "compute": 0.0, "evaluate": 0.0}

    def add(self, loss: torch.Tensor, logits_BK: torch.Tensor, labels_B: torch.Tensor, factor: float) -> None:
        self.clips += len(labels_B)
        self.right += int((logits_BK.argmax(1) == labels_B).sum())
        self.total_loss += float(loss.detach()) * len(labels_B)
        self.factors.append(factor)

    @property
    def loss(self) -> float:
        return self.total_loss / max(1, self.clips)

    @property
    def mean_factor(self) -> float:
        return sum(self.factors) / max(1, len(self.factors))

    @property
    def clips_per_second(self) -> float:
        return self.clips / max(1e-9, self.seconds["data"] + self.seconds["compute"])

    def figures(self) -> dict[str, Any]:
        return {
            "train_loss": self.loss,
            "train_top1": self.right / max(1, self.clips),
            "clips_per_second": round(self.clips_per_second, 2),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def timed(loader: ClipLoader, tally: Tally) -> Any:
    """Batches of a loader; the seconds waited for each, and those worked on each, go to the tally."""
    started = time.perf_counter()
    for batch in loader:
        arrived = time.perf_counter()
        tally.seconds["data"] += arrived - started
        yield batch
        started = time.perf_counter()
        tally.seconds["compute"] += started - arrived


class RunFiles:
    """The files of a run that grow while it trains; without a board, in other processes than the main one, none."""

    def __init__(self, folder: Path, facts: Facts, manifest: Manifest, board: SummaryWriter | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.board = board
        self.skipped = dict(facts.bad)
        self._write_skipped()

    def note_skipped(self, items: Sequence[tuple[int, str]]) -> None:
        new = [item for item in items if item[0] not in self.skipped]
        self.skipped.update(new)
        if new:
            self._write_skipped()

    def write(self, record: dict[str, Any]) -> None:
        assert self.board is not None
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        for name in ("train_loss", "train_top1", "val_loss", "val_top1", "clips_per_second"):
            if record[name] is not None:
                self.board.add_scalar(name, record[name], record["epoch"])
        for stage, rate in record["lr"].items():
            self.board.add_scalar(f"lr/{stage}", rate, record["epoch"])
        self.board.flush()

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _write_skipped(self) -> None:
        if self.board is None:
            return
        listed = [
            {"path": str(self.manifest.path(row)), "split": str(self.manifest.splits[row]), "reason": reason}
            for row, reason in sorted(self.skipped.items())
        ]
        write_json(self.folder / "skipped.json", listed)
