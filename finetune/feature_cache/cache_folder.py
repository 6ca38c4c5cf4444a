"""The entries of a cache folder: list them, delete old ones to make room. Imports no torch."""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.storage.atomic import try_exclusive_lock, user_cache_dir
from finetune.text import with_unit

RESERVED_DISK_BYTES = 2e9  # of disk space that the cache leaves free


def cache_root(folder: Path | None) -> Path:
    """The folder of all cache entries: the given one, or one in the user's cache."""
    return (folder or user_cache_dir("features")).expanduser().absolute()


@dataclass(frozen=True)
class CacheEntry:
    """One entry, a `ShardStore`: what it depends on, its size, and when it was last used, in seconds since 1970."""

    folder: Path
    cache_key: dict[str, Any]
    size_bytes: int
    used: float


def list_cache_entries(root: Path) -> list[CacheEntry]:
    """The entries of a cache folder, the last used one first."""
    entries = []
    for description in root.glob("*/set.json"):
        with suppress(OSError, ValueError):
            size = sum(path.stat().st_size for path in description.parent.iterdir())
            text = json.loads(description.read_text(encoding="utf-8"))
            entries.append(CacheEntry(description.parent, text, size, description.stat().st_mtime))
    return sorted(entries, key=lambda entry: -entry.used)


def make_room(root: Path, needed_bytes: int, *, budget_gb: float) -> str | None:
    """Make room for `needed_bytes` more; why that is impossible, or None where it is done.

    The least recently used entries are deleted, except those in use; none where that would not suffice.
    """
    root.mkdir(parents=True, exist_ok=True)
    entries, budget_bytes = list_cache_entries(root), budget_gb * 1e9
    excess = sum(entry.size_bytes for entry in entries) + needed_bytes - budget_bytes
    to_delete: list[CacheEntry] = []
    for entry in reversed(entries):
        if sum(other.size_bytes for other in to_delete) < excess and _is_unused(entry.folder):
            to_delete.append(entry)
    if sum(entry.size_bytes for entry in to_delete) < excess:
        return f"train.cache_budget_gb is {budget_gb:g}, and {with_unit(needed_bytes, 'B')} more are needed"
    for entry in to_delete:
        remove_cache_entry(entry.folder)
    free = shutil.disk_usage(root).free - RESERVED_DISK_BYTES
    return None if needed_bytes <= free else f"the disk of {root} has only {with_unit(max(0.0, free), 'B')} to spare"


def _is_unused(folder: Path) -> bool:
    with try_exclusive_lock(folder / "set.json") as is_free:
        return is_free


def remove_cache_entry(folder: Path) -> bool:
    """Delete an entry that is not in use; returns whether it was deleted."""
    with try_exclusive_lock(folder / "set.json") as is_free:
        if is_free:
            shutil.rmtree(folder, ignore_errors=True)
    return is_free
