"""How good a trained run is on a split: scores with their intervals, written as results.json and predictions.csv."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.checkpoint import load, open_run
from finetune.errors import DataError, RunError, some
from finetune.features.frozen import FrozenPart, entering
from finetune.features.kept import KeptLoader
from finetune.files import standing, whole_file, write_json
from finetune.headline import scores_of
from finetune.infer import probabilities, settle_device, settle_precision
from finetune.manifest import SPLITS, Manifest, several
from finetune.model.consensus import IN_WORDS
from finetune.model.model import TASK, VideoClassifier
from finetune.recipe import Data, Recipe
from finetune.video.batches import EpochBatches
from finetune.video.dataset import ClipDataset
from finetune.video.loader import ClipLoader, worker_count
from finetune.video.packed import facts_of

Progress = Callable[[int, int], None]


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    views: int | None = None,
    on_error: str | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a run's best checkpoint on each row of a split once; the contents of results.json.

    Writes predictions.csv, probabilities.npy and, last, results.json into `out`: by default `RUN/evaluation` for the
    test split and `RUN/evaluation/<split>` for others. A file that cannot be read fails the evaluation, unless
    `on_error` (by default the recipe's) is `skip`: then it is counted and listed. Raises RunError or DataError.
    """
    folder = Path(run)
    recipe, classes = open_run(folder)
    if split not in SPLITS:
        raise RunError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    views = views or recipe.evaluate.views
    manifest = saved_manifest(folder, recipe, classes)
    tested = manifest.only(split)
    if not len(tested):
        raise RunError(f"{folder}: its data has no rows in the split {split!r}")
    model = load(folder).to(settle_device(recipe.train.device))
    precision = settle_precision(recipe.train.precision, next(model.parameters()).device)
    started = time.perf_counter()
    loader, bad = loader_of(tested, split, recipe, size=model.size, views=views)
    with loader:
        kept, probs_NK, skipped = probabilities_of(model, loader, precision=precision, progress=progress)
    skipped = bad | skipped
    if skipped and (on_error or recipe.data.on_error) == "fail":
        raise DataError(
            "\n".join(skipped.values())
            + f"\n{len(skipped)} of {len(tested)} files of the split {split!r} cannot be read; "
            "mend or remove them, or leave them out with --on-error skip"
        )
    if not len(kept):
        raise DataError(f"{folder}: none of the {len(tested)} files of the split {split!r} can be read")
    groups = None if tested.groups is None else tested.groups[kept]
    thresholds = named_NK = None
    if recipe.data.multilabel:
        thresholds = thresholds_of(folder)
        named_NK = probs_NK >= thresholds
    task = scores_of(
        tested.truth[kept], probs_NK, classes=classes, groups=groups, named_NK=named_NK, thresholds=thresholds
    )
    results = {
        "schema": 1,
        "run": folder.resolve().name,
        "split": split,
        "num_rows": len(kept),
        "num_groups": None if groups is None else len(np.unique(groups)),
        "skipped": [{"path": str(tested.path(row)), "reason": reason} for row, reason in sorted(skipped.items())],
        "tasks": {TASK: task},
        "class_counts": {name: manifest.counts(name) for name in SPLITS},
        "training_skipped": _training_skipped(folder),
        "warnings": [],
        "protocol": _protocol(recipe, views, precision, groups, size=model.size),
        "seconds": round(time.perf_counter() - started, 2),
    }
    target = out or evaluation_folder(folder, split)
    target.mkdir(parents=True, exist_ok=True)
    write_predictions(target, tested, kept, probs_NK, named_NK)
    write_json(target / "results.json", results)
    return results


def evaluation_folder(run: Path, split: str) -> Path:
    """Where what a run scores on a split is written, unless another folder is named."""
    return run / "evaluation" if split == "test" else run / "evaluation" / split


def loader_of(
    manifest: Manifest, split: str, recipe: Recipe, *, size: int, views: int
) -> tuple[ClipLoader, dict[int, str]]:
    """A loader of a split as evaluation sees it, and the reason for each row of the manifest that cannot be read."""
    clip, packed = recipe.clip.model_copy(update={"size": size}), recipe.data.packed
    facts = facts_of(manifest, packed, side=size)
    dataset = ClipDataset(manifest, split, clip=clip, views=views, facts=facts, packed=packed)
    return row_loader(dataset, recipe.data), facts.bad


def row_loader(dataset: ClipDataset, data: Data, *, batch_size: int = 1, least_workers: int = 0) -> ClipLoader:
    """Rows in order; loading processes only where there are enough rows to be worth starting them, or at least some."""
    batches = EpochBatches(len(dataset), batch_size, seed=0, shuffle=False)
    workers = min(worker_count(data.workers), max(least_workers, len(dataset) // 16))
    return ClipLoader(dataset, batches, workers=workers, time_limit=data.time_limit)


def probabilities_of(
    model: VideoClassifier,
    loader: ClipLoader | KeptLoader,
    *,
    precision: str,
    frozen: FrozenPart | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Rows of a loader (N,), upwards, their class probabilities (N, K), and the reason for each that cannot be read.

    With a loader of one row a batch, what a row gets depends on no other row: `predict` gives the very same. With a
    `frozen` part, the loader may give what enters behind it; clips are first brought there.
    """
    model.eval()
    scored: dict[int, np.ndarray] = {}
    skipped: dict[int, str] = {}
    for batch in loader:
        if batch["clips"] is not None:
            clips_BV, cut = batch["clips"], None if frozen is None else frozen.cut
            if frozen is not None and clips_BV.dtype == torch.uint8:
                clips_BV = entering(model, clips_BV.flatten(0, 1), frozen).unflatten(0, clips_BV.shape[:2])
            probs_BK = probabilities(model, clips_BV, precision=precision, cut=cut).numpy()
            scored.update(zip(batch["row"].tolist(), probs_BK, strict=True))
        skipped.update(batch["skipped"])
        if progress is not None:
            progress(len(scored) + len(skipped), len(loader.dataset))
    rows_N = np.array(sorted(scored), dtype=int)
    return rows_N, np.array([scored[row] for row in rows_N]), skipped


def thresholds_of(folder: Path) -> np.ndarray:
    """For each class (K,) the probability from which on a run names it, chosen on its val rows; else one half."""
    meta = json.loads((standing(folder / "checkpoints" / "best") / "meta.json").read_text(encoding="utf-8"))
    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    return np.array(meta.get("thresholds") or [0.5] * len(classes))


def saved_manifest(folder: Path, recipe: Recipe, classes: tuple[str, ...]) -> Manifest:
    """The rows of a run as they were when it trained. Raises RunError when files have gone since."""
    data = recipe.data
    manifest = Manifest.from_csv(folder / "manifest.csv", multilabel=data.multilabel, packed=data.packed is not None)
    if set(manifest.classes) - set(classes):
        raise RunError(f"{folder}: manifest.csv names classes that the run has not: {some(manifest.classes)}")
    return manifest.with_classes(classes)


def _protocol(recipe: Recipe, views: int, precision: str, groups: np.ndarray | None, *, size: int) -> dict[str, Any]:
    return {
        "checkpoint": "best",
        "views": views,
        **recipe.clip.model_dump(include={"num_frames", "sampling", "frame_stride", "fit"}),
        "size": size,
        "consensus": IN_WORDS[recipe.evaluate.consensus].partition("," if recipe.data.multilabel else "\n")[0],
        "decoder": "pyav" if recipe.data.packed is None else f"the pack {recipe.data.packed}",
        "precision": precision,
        "interval": interval_in_words(groups),
    }


def interval_in_words(groups: np.ndarray | None) -> str:
    """How the intervals of `score` were made."""
    units = "clips" if groups is None else f"{len(np.unique(groups))} groups"
    return f"95 % percentile bootstrap over {units}, 2000 resamples; Wilson where all are alike"


def _training_skipped(folder: Path) -> list[dict[str, str]]:
    listed = folder / "skipped.json"
    return json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []


def write_predictions(
    folder: Path, manifest: Manifest, rows: np.ndarray, probs_NK: np.ndarray, named_NK: np.ndarray | None = None
) -> None:
    """predictions.csv, a line for each row, and probabilities.npy, float32 (N, K), with rows in the same order.

    Where rows may have several classes, predicted are those that `named_NK` names, and the probability is of the
    likeliest.
    """
    with whole_file(folder / "probabilities.npy") as partial, partial.open("wb") as file:
        np.save(file, probs_NK.astype(np.float32))
    with whole_file(folder / "predictions.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", "probability", "top_k"])
        for index, row in enumerate(rows):
            top = top_classes(probs_NK[index], manifest.classes, count=5)
            predicted = top[0][0] if named_NK is None else several(manifest.classes, named_NK[index])
            listed = json.dumps(top, ensure_ascii=False)
            writer.writerow([manifest.path(row), manifest.label(row), predicted, top[0][1], listed])


def top_classes(probs_K: np.ndarray, classes: tuple[str, ...], *, count: int) -> list[tuple[str, float]]:
    """The likeliest classes with their probabilities, to six digits, likeliest first."""
    order = np.argsort(-probs_K, kind="stable")[:count]
    return [(classes[code], round(float(probs_K[code]), 6)) for code in order]
