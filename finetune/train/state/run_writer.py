"""Write the files of a run while it trains: checkpoints, metrics.jsonl, TensorBoard, skipped.json."""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.data.manifest import Manifest
from finetune.errors import RunError, shorten_list
from finetune.metrics.headline import epoch_sort_key
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Recipe
from finetune.run.checkpoint import load_checkpoint, save_checkpoint
from finetune.run.folder import RunFolder
from finetune.run.read import read_epochs
from finetune.run.results import KnownScores
from finetune.run.write import add_to_environment, begin_run, write_epochs, write_skipped
from finetune.runtime.processes import is_main_process
from finetune.storage.atomic import exclusive_lock, remove_leftovers
from finetune.train.position import LoopPosition
from finetune.train.state.state import State, saved_state
from finetune.train.step import TrainState
from finetune.video.loader import Batch

if TYPE_CHECKING:
    from finetune.train.log.tensorboard import TensorBoardWriter


@dataclass(frozen=True)
class RunStart:
    """The start of a run: a new folder, or the saved state of a run that was stopped.

    `decided` are the automatic settings, which environment.json lists.
    """

    folder: Path
    state: State | None = None
    decided: dict[str, Any] = field(default_factory=dict)


class RunWriter:
    """Writes the files of a run, each atomically; only the main process writes."""

    def __init__(
        self,
        start: RunStart,
        manifest: Manifest,
        recipe: Recipe,
        model: VideoClassifier,
        *,
        fixed: dict[str, Any],
        bad: dict[int, str],
    ) -> None:
        """`fixed`, see `starting_point`, goes into each saved state; `bad` has the reason for each unreadable row."""
        state = start.state
        epochs = 0 if state is None else state["position"]["epochs"]
        self.folder = start.folder
        self.manifest = manifest
        self.recipe = recipe
        self.fixed = fixed
        self.skipped = bad | ({} if state is None else state["skipped"])
        self.is_writer = is_main_process()
        self.held = ExitStack()
        self.board: TensorBoardWriter | None = None
        self.known_scores: KnownScores | None = None
        if self.is_writer:
            self._begin(start, epochs, model)
        self.records = read_records(self.folder, epochs=epochs)
        self.saved = time.monotonic()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()
        self.held.close()

    def _begin(self, start: RunStart, epochs: int, model: VideoClassifier) -> None:
        """Lock the run folder until this program ends, and write its first files."""
        from finetune.train.log.tensorboard import TensorBoardWriter  # slow to import

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            refusal = f"{self.folder}: another program is training into it; wait until it ends, or stop it"
            self.held.enter_context(exclusive_lock(RunFolder(self.folder).lock, refusal))
            begin_run(
                self.folder,
                self.recipe,
                self.manifest,
                decided=start.decided,
                outputs=model.outputs if model.multitask_spec else None,
                weights=model.backbone.weights_source if start.state is None else None,
            )
        except OSError as error:
            raise RunError(f"{self.folder}: a run folder cannot be written there: {error.strerror}") from None
        if start.state is None:  # a run that ended before its first checkpoint may have left an incomplete one
            shutil.rmtree(RunFolder(self.folder).checkpoints, ignore_errors=True)
        for which in ("start", "best", "last"):
            remove_leftovers(RunFolder(self.folder).checkpoints / which)
        self.board = TensorBoardWriter(RunFolder(self.folder).tensorboard, epochs=epochs)
        self._write_skipped()

    def record_skipped(self, items: Sequence[tuple[int, str]]) -> None:
        new = [item for item in items if item[0] not in self.skipped]
        self.skipped.update(new)
        if new:
            self._write_skipped()

    def record_decided(self, decided: Mapping[str, Any]) -> None:
        """Add to the automatic settings in environment.json."""
        if self.is_writer:
            add_to_environment(self.folder, decided)

    def write(self, record: dict[str, Any]) -> None:
        """Write the record of a finished epoch."""
        self.records.append(record)
        if not self.is_writer:
            return
        try:
            write_epochs(self.folder, self.records)
            assert self.board is not None
            self.board.epoch(record)
        except OSError as error:
            raise RunError(
                f"{RunFolder(self.folder).metrics}: could not be written: {error.strerror}; "
                f"fix that, then resume with: finetune train --resume {self.folder}"
            ) from error

    def save_start(self, model: VideoClassifier, at: LoopPosition) -> None:
        """Save the weights before the backbone is first trained: the pretrained backbone with a trained head."""
        if self.is_writer and not RunFolder(self.folder).checkpoint("start").exists():
            save_checkpoint(self.folder, "start", model, {"epoch": at.epochs})

    def save_best(self, model: VideoClassifier, record: dict[str, Any]) -> None:
        """Save the weights of the last validation, with the scores that it gave to the clips of val."""
        if self.is_writer:
            scores = {} if self.known_scores is None else {"known_scores": self.known_scores}
            save_checkpoint(self.folder, "best", model, record | scores)

    def save_epoch(self, model: VideoClassifier, record: dict[str, Any]) -> None:
        """Save the weights in `checkpoints/epoch-<n>`, and remove those older than `keep_checkpoints` epochs."""
        if not self.is_writer or not self.recipe.train.keep_checkpoints:
            return
        save_checkpoint(self.folder, f"epoch-{record['epoch']}", model, record)
        too_old = record["epoch"] - self.recipe.train.keep_checkpoints
        shutil.rmtree(RunFolder(self.folder).checkpoints / f"epoch-{too_old}", ignore_errors=True)

    def save_last(self, state: TrainState, at: LoopPosition) -> None:
        """Save the current weights, and everything that is needed to resume from here."""
        self.saved = time.monotonic()
        if not self.is_writer:
            return
        meta = self.records[-1] if at.batches == 0 and self.records else {"epoch": at.epochs, "batches": at.batches}
        recipe = self.recipe.model_dump(mode="json")
        saved = saved_state(state, at) | self.fixed | {"skipped": self.skipped, "recipe": recipe}
        model = state.setup.model
        with state.setup.ema.averaged_weights(model):
            save_checkpoint(self.folder, "last", model, meta, state=saved)

    def show_clips(self, batch: Batch, at: LoopPosition) -> None:
        """Write the first clips of a batch to TensorBoard, unless the batch has cached features."""
        clips = batch["clips"]
        if self.board is None or clips is None or clips.dtype != torch.uint8:
            return
        names = [self.manifest.label(row) for row in batch["row"].tolist()]
        self.board.clips(clips.flatten(0, 1), names, phase=at.phase, epoch=at.epochs + 1)

    def load_best(self, model: VideoClassifier) -> dict[str, Any]:
        """Load the best weights; the record of their epoch."""
        return load_checkpoint(self.folder, "best", model)

    @property
    def last_is_best(self) -> bool:
        """Whether the last epoch was better on val than all earlier ones."""
        *earlier, last = map(epoch_sort_key, self.records)
        return all(last > key for key in earlier)

    @property
    def minutes_since_saved(self) -> float:
        return (time.monotonic() - self.saved) / 60

    def _write_skipped(self) -> None:
        if not self.is_writer:
            return
        listed = [
            {"path": self.manifest.clip_name(row), "split": str(self.manifest.splits[row]), "reason": reason}
            for row, reason in sorted(self.skipped.items())
        ]
        write_skipped(self.folder, listed)


def read_records(folder: Path, *, epochs: int) -> list[dict[str, Any]]:
    """The first `epochs` records of a run's metrics.jsonl."""
    records = [record for record in read_epochs(folder) if record["epoch"] <= epochs]
    for record in records:
        if missing := {"phase", "val_loss", "val_top1"} - record.keys():
            where = f"{RunFolder(folder).metrics}, epoch {record['epoch']}"
            raise RunError(f"{where}: has no {shorten_list(sorted(missing))}; it cannot be resumed, start another run")
    return records
