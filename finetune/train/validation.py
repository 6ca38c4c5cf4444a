"""How good the model is on the split val, and batch norm measured anew for it."""

from itertools import islice
from typing import Any

from finetune.evaluation import Progress, probabilities_of
from finetune.features.frozen import FrozenPart
from finetune.features.kept import KeptLoader
from finetune.headline import validation_figures
from finetune.model.freeze import set_trainable
from finetune.model.model import VideoClassifier
from finetune.recipe import Phase
from finetune.train.loaders import TrainLoaders
from finetune.train.recalibrate import recalibrate
from finetune.train.run_files import RunFiles
from finetune.video.loader import ClipLoader

ENOUGH = 200  # batches to measure batch norm on


def validate(
    model: VideoClassifier,
    loader: ClipLoader | KeptLoader | None,
    precision: str,
    run: RunFiles,
    progress: Progress | None = None,
    frozen: FrozenPart | None = None,
) -> dict[str, Any]:
    """What a record of an epoch says of the split val, each row counted once; None where there are no rows."""
    nothing = {"val_loss": None, "val_top1": None}
    if loader is None:
        return nothing
    rows_N, probs_NK, skipped = probabilities_of(model, loader, precision=precision, frozen=frozen, progress=progress)
    run.note_skipped(list(skipped.items()))
    if not len(rows_N):
        return nothing
    truth = run.manifest.truth[rows_N]
    if run.board is not None and truth.ndim == 1:
        run.board.confusion(model.classes, truth, probs_NK.argmax(1), epoch=len(run.records) + 1)
    return validation_figures(truth, probs_NK)


def measure_norms_anew(
    model: VideoClassifier, loaders: TrainLoaders, phase: Phase, precision: str, *, epoch: int
) -> int:
    """Measure batch norm anew on training clips, where the phase of the best weights updated it."""
    set_trainable(model, phase.train, batch_norm=phase.batch_norm)
    loader, batches = loaders.of(phase)
    batches.begin(epoch)
    clips = (batch["clips"].flatten(0, 1) for batch in islice(loader, ENOUGH) if batch["clips"] is not None)
    return recalibrate(model, clips, precision=precision)
