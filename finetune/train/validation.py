"""How good the model is on the split val, and batch norm measured anew for it."""

from itertools import islice

import numpy as np

from finetune.evaluation import Progress, probabilities_of
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
    loader: ClipLoader | None,
    precision: str,
    run: RunFiles,
    progress: Progress | None = None,
) -> tuple[float | None, float | None]:
    """Loss and top-1 on the split val, each row once."""
    if loader is None:
        return None, None
    scored, skipped = probabilities_of(model, loader, precision=precision, progress=progress)
    run.note_skipped(list(skipped.items()))
    if not scored:
        return None, None
    rows = np.array(sorted(scored))
    probs_NK = np.stack([scored[row] for row in rows])
    labels_N = run.manifest.labels[rows]
    likelihood_N = probs_NK[np.arange(len(rows)), labels_N]
    loss = float(-np.log(np.maximum(likelihood_N, 1e-12)).mean())
    return loss, float((probs_NK.argmax(1) == labels_N).mean())


def measure_norms_anew(
    model: VideoClassifier, loaders: TrainLoaders, phase: Phase, precision: str, *, epoch: int
) -> int:
    """Measure batch norm anew on training clips, where the phase of the best weights updated it."""
    set_trainable(model, phase.train, batch_norm=phase.batch_norm)
    loader, batches = loaders.of(phase)
    batches.begin(epoch)
    clips = (batch["clips"].flatten(0, 1) for batch in islice(loader, ENOUGH) if batch["clips"] is not None)
    return recalibrate(model, clips, precision=precision)
