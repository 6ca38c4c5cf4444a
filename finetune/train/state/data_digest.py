"""Digests of a run's data: it resumes only with the same files, labels, splits and groups."""

import os
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.intervals import clip_name
from finetune.data.manifest import Manifest
from finetune.errors import DataError, shorten_list
from finetune.recipe.schema import Recipe
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.runtime.processes import on_main_then_broadcast, process_count
from finetune.video.decode.clip_files import stamp
from finetune.video.file_facts import FileFacts

ASPECTS = ("file name", "label", "split", "group", "content")
ADVICE = "restore the data, or start another run"
FULL_HASH_BYTES, HASHED_BLOCKS = 256_000, 16  # of larger files, 16 evenly spaced blocks are hashed


def starting_point(
    manifest: Manifest,
    facts: FileFacts,
    recipe: Recipe,
    saved: Mapping[str, Any] | None,
    *,
    print_line: Callable[[str], None],
) -> dict[str, Any]:
    """What must stay the same during a run, and is part of each of its saved states.

    `files`: see `fingerprint`; `data`: see `digest_data`; `precision`: fp32, bf16 or fp16; `batch_size`: clips of all
    processes together. A resumed run keeps the precision and batch size of its state `saved`. Raises DataError where
    its files or labels have changed.
    """
    train = recipe.train
    assert isinstance(train.batch_size, int)
    now: dict[str, Any] = {
        "files": fingerprint(manifest, facts),
        "data": on_main_then_broadcast(lambda: digest_data(manifest)),
        "precision": resolve_precision(train.precision, resolve_device(train.device)),
        "batch_size": train.batch_size * process_count(),
    }
    if saved is None:
        return now
    if "data" in saved:
        refuse_changed_data(manifest, saved["data"], now["data"])
    else:
        print_line("An older version started this run: only file sizes are compared, not labels")
    refuse_changed_files(manifest, saved["files"], now["files"])
    return {key: saved.get(key, value) for key, value in now.items()}


def digest_data(manifest: Manifest) -> dict[str, Any]:
    """`rows`: (N, 5) int64, a digest of each of ASPECTS; `classes`: ordered names by task ("" if there is only one).

    Folders may move: a digest uses the name of a file, its interval and its content, not its folder.
    """
    content_of = cache(_hash_file)
    rows = [
        [_hash_int64(text) for text in (*_aspects(manifest, row), content_of(manifest.path(row)))]
        for row in range(len(manifest))
    ]
    names = {task: list(labels.names) for task, labels in manifest.tasks.items()} or {"": list(manifest.classes)}
    return {"rows": torch.tensor(rows, dtype=torch.int64).reshape(-1, len(ASPECTS)), "classes": names}


def refuse_changed_data(manifest: Manifest, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DataError that names the rows that changed since the run began, and what changed."""
    rows = before.get("rows")
    if not isinstance(rows, Tensor) or rows.shape != now["rows"].shape:
        count = len(rows) if isinstance(rows, Tensor) and rows.ndim else "other"
        raise DataError(f"{manifest.source}: the run was started with {count} rows, not {len(manifest)}; {ADVICE}")
    changes = []
    for column, aspect in enumerate(ASPECTS):
        changed = (rows[:, column] != now["rows"][:, column]).nonzero().flatten().tolist()
        if changed:
            changes.append(f"{aspect} of {shorten_list([manifest.clip_name(row) for row in changed])}")
    for task, names in now["classes"].items():
        old_names = before["classes"].get(task, [])
        if old_names != names:
            where = f"tasks.{task}" if task else "the classes"
            changes.append(f"the names of {where}, which were {shorten_list(old_names)}")
    if changes:
        listed = "\n".join(f"changed since the run began: {change}" for change in changes)
        raise DataError(f"{listed}\n{manifest.source}: {ADVICE}")


def fingerprint(manifest: Manifest, facts: FileFacts) -> Tensor:
    """(N, 4) int64: bytes, frames, height and width of each row's file; only bytes where a file cannot be read."""
    sizes = [stamp(path)[0] if (path := manifest.path(row)).exists() else 0 for row in range(len(manifest))]
    return torch.from_numpy(np.stack([sizes, facts.num_frames, facts.heights, facts.widths], axis=1).astype(np.int64))


def refuse_changed_files(manifest: Manifest, before: Tensor, now: Tensor) -> None:
    """Raise DataError when files changed since the run began. `before` and `now` are fingerprints (N, 4)."""
    if not isinstance(before, Tensor) or before.shape != now.shape:
        raise DataError(f"{manifest.source}: has {len(now)} rows, not those that the run began with; start another run")
    changed = (before != now).any(1).nonzero().flatten().tolist()
    if changed:
        paths = shorten_list([str(manifest.path(row)) for row in changed])
        raise DataError(f"{paths}: changed since the run began ({len(changed)} of {len(manifest)} files); {ADVICE}")


def _aspects(manifest: Manifest, row: int) -> tuple[bytes, ...]:
    """The texts of a row's ASPECTS but the last, the content of its file."""
    path = manifest.path(row)
    labels = [text for task in manifest.tasks.values() for text in task.text(row)] or [manifest.label(row)]
    group = "" if manifest.groups is None else str(manifest.groups[row])
    texts = (
        clip_name(path.name, *manifest.interval(row), manifest.boxes_cell(row)),
        "\0".join(labels),
        str(manifest.splits[row]),
        group,
    )
    return tuple(os.fsencode(text) for text in texts)


def _hash_file(path: Path) -> bytes:
    """A digest of a file, or of parts of a large one; empty where it cannot be read, as packed videos may be gone."""
    try:
        if path.is_dir():
            return _hash_folder(path)
        size = path.stat().st_size
        digest = blake2b(str(size).encode(), digest_size=8)
        with path.open("rb") as file:
            if size <= FULL_HASH_BYTES:
                digest.update(file.read())
            else:
                for block in range(HASHED_BLOCKS):
                    file.seek(block * (size - FULL_HASH_BYTES // HASHED_BLOCKS) // (HASHED_BLOCKS - 1))
                    digest.update(file.read(FULL_HASH_BYTES // HASHED_BLOCKS))
        return digest.digest()
    except OSError:
        return b""


def _hash_folder(folder: Path) -> bytes:
    """A digest of a folder of images: names and sizes of all files, and the content of some, evenly spaced."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    digest = blake2b(digest_size=8)
    for number, file in enumerate(files):
        digest.update(f"{file.name} {file.stat().st_size}\0".encode(errors="surrogateescape"))
        if number % max(1, len(files) // HASHED_BLOCKS) == 0:
            digest.update(_hash_file(file))
    return digest.digest()


def _hash_int64(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)
