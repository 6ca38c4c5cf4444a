"""What a run learns from, as digests of each row: a run goes on with the same files, labels, splits and groups."""

import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.data.manifest import Manifest
from finetune.errors import DataError, shorten_list

ASPECTS = ("file name", "label", "split", "group", "content")
ADVICE = "put back what was there, or start another run"
FULL_HASH_BYTES, HASHED_BLOCKS = 256_000, 16  # larger files are read in so many blocks, evenly spaced


def digest_data(manifest: Manifest) -> dict[str, Any]:
    """`rows`: (N, 5) int64, a digest of each aspect; `classes`: names in their order, by task ("" for a single one).

    A folder may move: of a path the file's name counts, and what is in the file.
    """
    rows = [[_hash_int64(text) for text in _aspects(manifest, row)] for row in range(len(manifest))]
    names = {task: list(labels.names) for task, labels in manifest.tasks.items()} or {"": list(manifest.classes)}
    return {"rows": torch.tensor(rows, dtype=torch.int64).reshape(-1, len(ASPECTS)), "classes": names}


def refuse_changed_data(manifest: Manifest, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DataError that names the rows and what of them is not as it was when the run began."""
    rows = before.get("rows")
    if not isinstance(rows, Tensor) or rows.shape != now["rows"].shape:
        count = len(rows) if isinstance(rows, Tensor) and rows.ndim else "other"
        raise DataError(f"{manifest.source}: the run began with {count} rows, now there are {len(manifest)}; {ADVICE}")
    changes = []
    for column, aspect in enumerate(ASPECTS):
        changed = (rows[:, column] != now["rows"][:, column]).nonzero().flatten().tolist()
        if changed:
            changes.append(f"{aspect} of {shorten_list([str(manifest.path(row)) for row in changed])}")
    for task, names in now["classes"].items():
        began = before["classes"].get(task, [])
        if began != names:
            changes.append(
                f"the names of {f'tasks.{task}' if task else 'the classes'}, which were {shorten_list(began)}"
            )
    if changes:
        listed = "\n".join(f"changed since the run began: {change}" for change in changes)
        raise DataError(f"{listed}\n{manifest.source}: {ADVICE}")


def _aspects(manifest: Manifest, row: int) -> tuple[bytes, ...]:
    path = manifest.path(row)
    labels = [text for task in manifest.tasks.values() for text in task.text(row)] or [manifest.label(row)]
    group = "" if manifest.groups is None else str(manifest.groups[row])
    texts = (path.name, "\0".join(labels), str(manifest.splits[row]), group)
    return (*(os.fsencode(text) for text in texts), _hash_file(path))


def _hash_file(path: Path) -> bytes:
    """A digest of a file, or of parts of a large one; empty where it cannot be read, as files that are packed."""
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
    """Of a clip that is a folder of images: names and sizes of all, and what is in some, evenly spaced."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    digest = blake2b(digest_size=8)
    for number, file in enumerate(files):
        digest.update(f"{file.name} {file.stat().st_size}\0".encode(errors="surrogateescape"))
        if number % max(1, len(files) // HASHED_BLOCKS) == 0:
            digest.update(_hash_file(file))
    return digest.digest()


def _hash_int64(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)
