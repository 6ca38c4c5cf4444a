"""The rows of a run, with the paths of their files as they are now."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune.data.labels import empty_labels
from finetune.data.manifest import Manifest, tasks_for_csv
from finetune.data.read import read_table
from finetune.errors import DataError, RunError, shorten_list
from finetune.recipe.tasks import primary_task
from finetune.run.folder import RunFolder
from finetune.run.read import Run
from finetune.storage.numbered_images import IMAGE_SUFFIXES


def saved_manifest(run: Run, *, data_root: str | Path | None = None, needs_files: bool = True) -> Manifest:
    """The rows of a run as they were when it was trained; `data_root` is where their files are now.

    Its `unknown` are the rows of classes that were left out of training. The rows of an exported model are those of the
    run in whose folder it lies; elsewhere it has none. A published model has none either.

    Raises DataError where files are missing, unless not `needs_files`, and where `data_root` is given but frames come
    from a pack. Raises RunError for rows with classes that the run does not have, and for a model without rows, unless
    not `needs_files`.
    """
    source = _folder_with_rows(run)
    if source is None:
        if needs_files:
            raise RunError(
                f"{run.folder}: has no rows of its own, as published models and exported ones outside of their run; "
                "name a labelled set, data.manifest=FILE.csv or data.folder=DIR"
            )
        return _no_rows(run)
    manifest = _read_rows(run, source.manifest, data_root=data_root, needs_files=needs_files)
    unknown_csv = source.unknown
    if run.recipe.evaluate.unknown and unknown_csv.exists():
        unknown = _read_rows(run, unknown_csv, data_root=data_root, needs_files=needs_files)
        manifest = replace(manifest, unknown=unknown)
    if run.recipe.tasks:
        return manifest.aligned_to_outputs(run.outputs)
    if set(manifest.classes) - set(run.classes):
        listed = shorten_list(manifest.classes)
        raise RunError(f"{run.folder}: manifest.csv has classes that the run does not have: {listed}")
    return manifest.with_classes(run.classes)


def _read_rows(run: Run, csv: Path, *, data_root: str | Path | None, needs_files: bool) -> Manifest:
    """The rows of one CSV of a run folder, with the paths of their files as they are now."""
    data, tasks = run.recipe.data, tasks_for_csv(run.recipe.tasks)
    manifest = Manifest.from_csv(csv, multilabel=data.multilabel, packed=True, tasks=tasks, checked=False)
    manifest = replace(manifest, image_rate=data.image_rate)
    if data_root is not None and data.packed is not None:
        raise DataError(
            f"{run.folder}: reads its frames from the pack {data.packed}, not from videos, so --data-root has no "
            "effect; put the pack, or a link to it, at that place"
        )
    if data_root is not None:
        manifest = relocated(manifest, Path(data_root))
    elif needs_files and data.packed is None:
        _refuse_missing(manifest)
    return manifest


def _folder_with_rows(run: Run) -> RunFolder | None:
    """The folder of a run, or of the run RUN of an exported model RUN/exported/NAME; None where there is none."""
    if run.exported is None:
        folder = RunFolder(run.folder)
        return folder if folder.manifest.is_file() else None
    exported = run.folder.resolve().parent
    around = RunFolder(exported.parent)
    return around if exported == around.exported and around.manifest.is_file() else None


def _no_rows(run: Run) -> Manifest:
    """A manifest of no rows, with the classes and tasks of a run."""
    tasks = {name: empty_labels(output, 0) for name, output in run.outputs.items()}
    first = tasks[primary_task(run.outputs)]
    is_multilabel = first.kind == "multilabel"
    manifest = Manifest(
        source=run.folder,
        classes=run.classes,
        paths=np.zeros(0, dtype=bytes),
        labels=np.zeros(0, dtype=np.int64),
        splits=np.zeros(0, dtype=str),
        groups=None,
        targets=first.values if is_multilabel else None,
        tasks=tasks if run.recipe.tasks else {},
    )
    return manifest.aligned_to_outputs(run.outputs) if run.recipe.tasks else manifest


def _refuse_missing(manifest: Manifest) -> None:
    paths = [os.fsdecode(path) for path in (*manifest.paths, *_mask_paths(manifest))]
    missing = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110 (never raises)
    if missing:
        raise DataError(
            f"{manifest.source}: {len(missing)} of {len(paths)} files do not exist: {shorten_list(missing)}; "
            "if they were moved, pass their new folder: --data-root DIR"
        )


def _mask_paths(manifest: Manifest) -> list[bytes]:
    return [path for labels in manifest.tasks.values() if labels.kind == "segment" for path in labels.values if path]


def relocated(manifest: Manifest, root: Path) -> Manifest:
    """The same rows with their files, and masks that lie in the folder which `root` replaces, below `root`.

    `root` replaces the longest folder that all recorded paths share, or else the first folder above it for which all
    files exist. Raises DataError, naming some of the missing files, where no folder fits.
    """
    base = _replaced_folder(manifest, root)
    tasks = {
        name: replace(labels, values=_moved(labels.values, base, root)) if labels.kind == "segment" else labels
        for name, labels in manifest.tasks.items()
    }
    return replace(manifest, paths=_moved(manifest.paths, base, root), tasks=tasks)


def _moved(paths_N: np.ndarray, base: Path, root: Path) -> np.ndarray:
    """Paths (N,), UTF-8 bytes, with those below `base` moved below `root`."""
    paths = [Path(os.fsdecode(path)) for path in paths_N]
    moved = [root.absolute() / path.relative_to(base) if path.is_relative_to(base) else path for path in paths]
    return np.array([os.fsencode(path) if text else b"" for path, text in zip(moved, paths_N, strict=True)])


def _replaced_folder(manifest: Manifest, root: Path) -> Path:
    paths = [os.fsdecode(path) for path in manifest.paths]
    shared = Path(_shared_folder(paths))
    fewest: tuple[int, list[str]] | None = None
    for base in (shared, *shared.parents):
        moved = [root.absolute() / Path(path).relative_to(base) for path in paths]
        missing = [str(path) for path in moved if not path.exists()]
        if not missing:
            return base
        if fewest is None or len(missing) < fewest[0]:
            fewest = len(missing), missing
    assert fewest is not None
    raise DataError(
        f"{root}: {fewest[0]} of {len(paths)} files do not exist: {shorten_list(fewest[1])}; "
        f"the run recorded them below {shared}: --data-root is the new place of that folder, or of one above it"
    )


def _shared_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath([str(Path(path).parent) for path in paths])


def describe_relocation(run: Run, data_root: Path) -> str:
    """A line of text: from which folder the files are read now, and which folder the run recorded."""
    before = saved_manifest(run, needs_files=False)
    after = saved_manifest(run, data_root=data_root)
    old, new = (_shared_folder([os.fsdecode(path) for path in manifest.paths]) for manifest in (before, after))
    return f"{len(before)} files recorded below {old} are read below {new}"


def reads_image_sequences(run: Run) -> bool:
    """Whether a folder of numbered images is one clip for a run; False if it was trained on single images only."""
    if run.exported is not None:
        return run.exported["clip"]["image_sequences"]
    manifest = RunFolder(run.folder).manifest
    if not manifest.is_file():  # a published model, whose recipe says so
        return run.recipe.data.image_sequences
    trained = read_table(manifest).get("path", [""])
    only_images = all(Path(path).suffix.lower() in IMAGE_SUFFIXES for path in trained)
    return run.recipe.data.image_sequences and not only_images
