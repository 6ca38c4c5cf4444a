"""Features of clips: what a run's network passes to its head, one vector per clip. Computed once, kept in the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from finetune.data.manifest import Manifest
from finetune.data.rows_without_labels import rows_without_labels
from finetune.feature_cache.frozen_part import hash_tensors
from finetune.inference.forward import predict_batch
from finetune.inference.head_inputs import HeadInputs
from finetune.model.classifier import VideoClassifier
from finetune.recipe.tasks import require_classes
from finetune.run.checkpoint import load_model
from finetune.run.folder import RunFolder
from finetune.run.read import Run, require_checkpoint
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.storage.atomic import atomic_file
from finetune.storage.safe_read import BAD_ARRAY_ERRORS
from finetune.video.row_loader import evaluation_loader

Progress = Callable[[int, int], None]
FORMAT = 2  # of kept features: increase when others are computed
SAVED_AT_ONCE = 500  # clips that are computed again at most, where the program is stopped


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """Features (N, D) and class probabilities (N, K) of N clips, by name; `failed` says why others cannot be read.

    Probabilities are those of the primary task. A clip's name is its absolute path, with its interval if it has one.
    """

    names: tuple[str, ...]
    features_ND: np.ndarray
    probs_NK: np.ndarray
    failed: dict[str, str]

    def nearest(self, row: int, count: int) -> list[tuple[int, float]]:
        """The `count` clips that are most alike, without the clip itself: rows and cosines, the largest first."""
        lengths_N = np.linalg.norm(self.features_ND, axis=1).clip(1e-12)
        cosines_N = self.features_ND @ self.features_ND[row] / (lengths_N * lengths_N[row])
        order = [other for other in np.argsort(-cosines_N, kind="stable").tolist() if other != row]
        return [(other, float(cosines_N[other])) for other in order[:count]]


def unlabelled_clips(run: Run, paths: Sequence[Path]) -> Manifest:
    """Whole files (or folders of numbered images) as rows of the split test, of which no label is used."""
    return rows_without_labels(run.folder, paths, classes=run.classes, image_rate=run.recipe.data.image_rate)


def clip_features(run: Run, clips: Manifest, *, progress: Progress | None = None) -> ClipFeatures:
    """The features of all rows, in their order, each clip seen once as in an evaluation with one view.

    They are kept in the run folder, by weights, clip settings, and the size and time of each file; only new clips are
    computed. Raises RunError for a run without classes, and for an exported one.
    """
    require_checkpoint(run, "a feature of a clip")
    recipe = run.recipe
    require_classes(run.outputs, run.folder, "a feature of a clip")
    model = load_model(run).to(resolve_device(recipe.train.device))
    file = RunFolder(run.folder).features / f"{_key(model, run)}.npz"
    cached = _read(file)
    keys = [_clip_key(clips, row) for row in range(len(clips))]
    missing = np.flatnonzero([key not in cached for key in keys])
    failed: dict[str, str] = {}
    for start in range(0, len(missing), SAVED_AT_ONCE):
        part = missing[start : start + SAVED_AT_ONCE]
        report = None if progress is None else partial(_report, progress, start, len(missing))
        computed, reasons = _compute(run, model, clips, part, report)
        failed |= reasons
        cached |= {keys[row]: vectors for row, vectors in computed.items()}
        _write(file, cached)
    rows = [row for row in range(len(clips)) if keys[row] in cached]
    width = len(model.outputs[model.primary].names)
    features_ND = np.array([cached[keys[row]][0] for row in rows], dtype=np.float32)
    probs_NK = np.array([cached[keys[row]][1] for row in rows], dtype=np.float32).reshape(-1, width)
    return ClipFeatures(tuple(clips.clip_name(row) for row in rows), features_ND, probs_NK, failed)


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _compute(
    run: Run, model: VideoClassifier, clips: Manifest, rows: np.ndarray, report: Callable[[int], None] | None
) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], dict[str, str]]:
    """Features (D,) and probabilities (K,) by row, and the reason for each clip that cannot be read, by name."""
    lacking = clips.without(np.setdiff1d(np.arange(len(clips)), rows))
    lacking = replace(lacking, splits=np.full(len(lacking), "test", dtype="U5"), tasks={})
    loader, bad = evaluation_loader(lacking, "test", run.recipe, size=model.size, views=1)
    precision = resolve_precision(run.recipe.train.precision, next(model.parameters()).device)
    computed, skipped = {}, dict(bad)
    with loader, HeadInputs(model) as inputs:
        for batch in loader:
            skipped.update(batch["skipped"])
            if batch["clips"] is not None:
                probs_BK = predict_batch(model, batch["clips"], precision=precision)[model.primary].numpy()
                vectors_BD = inputs.take()
                for place, row in enumerate(batch["row"].tolist()):
                    computed[int(rows[row])] = vectors_BD[place], probs_BK[place]
            if report is not None:
                report(len(computed) + len(skipped))
    return computed, {lacking.clip_name(row): reason for row, reason in skipped.items()}


def _key(model: VideoClassifier, run: Run) -> str:
    settings = {
        "clip": run.recipe.clip.model_dump(mode="json"),
        "size": model.size,
        "format": FORMAT,
        "packed": str(run.recipe.data.packed),
    }
    return sha256(f"{hash_tensors(model.state_dict())} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()[
        :16
    ]


def _clip_key(clips: Manifest, row: int) -> str:
    """The clip's name with the size and the time of its file."""
    try:
        status = clips.path(row).stat()
        return f"{clips.clip_name(row)}|{status.st_size}|{status.st_mtime_ns}"
    except OSError:
        return f"{clips.clip_name(row)}|"


def _read(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The kept features; none where the file is missing or cannot be read."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            names, features_ND, probs_NK = (arrays[name] for name in ("names", "features", "probs"))
        vectors = zip(features_ND, probs_NK, strict=True)
        return {str(name): of_clip for name, of_clip in zip(names, vectors, strict=True)}
    except BAD_ARRAY_ERRORS:
        return {}


def _write(file: Path, cached: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Keep the features; where the folder cannot be written they are computed again next time."""
    if not cached:
        return
    names = np.array(list(cached))
    features_ND, probs_NK = (np.stack([vectors[part] for vectors in cached.values()]) for part in (0, 1))
    try:
        file.parent.mkdir(exist_ok=True)
        with atomic_file(file, concurrent_writers=True) as new, new.open("wb") as out:
            np.savez(out, names=names, features=features_ND, probs=probs_NK)
    except OSError:
        pass
