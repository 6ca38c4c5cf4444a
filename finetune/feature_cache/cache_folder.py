"""The sets in a cache folder: which there are, and room made for more. Needs no torch."""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.storage.atomic import try_exclusive_lock, user_cache_dir

RESERVED_DISK_BYTES = 2e9  # of a disk that are left to others


def cache_root(folder: Path | None) -> Path:
    """Where sets are kept: in a folder, or in the user's cache."""
    return (folder or user_cache_dir("features")).expanduser().absolute()


@dataclass(frozen=True)
class CacheEntry:
    """A set in a cache folder: what it depends on, how large it is, when it was last used (seconds since 1970)."""

    folder: Path
    cache_key: dict[str, Any]
    size_bytes: int
    used: float


def list_cache_entries(root: Path) -> list[CacheEntry]:
    """The sets of a cache folder, the one last used first."""
    found = []
    for description in root.glob("*/set.json"):
        with suppress(OSError, ValueError):
            size = sum(path.stat().st_size for path in description.parent.iterdir())
            text = json.loads(description.read_text(encoding="utf-8"))
            found.append(CacheEntry(description.parent, text, size, description.stat().st_mtime))
    return sorted(found, key=lambda each: -each.used)


def make_room(root: Path, needed_bytes: int, *, budget_gb: float) -> str | None:
    """Why so much more does not fit into a cache folder; None where it does.

    Sets that were not used for longest are removed for it, but for those in use, and none where that does not suffice.
    """
    root.mkdir(parents=True, exist_ok=True)
    found, budget_bytes = list_cache_entries(root), budget_gb * 1e9
    excess = sum(each.size_bytes for each in found) + needed_bytes - budget_bytes
    going: list[CacheEntry] = []
    for each in reversed(found):
        if sum(other.size_bytes for other in going) < excess and _is_unused(each.folder):
            going.append(each)
    if sum(each.size_bytes for each in going) < excess:
        return f"train.cache_budget_gb is {budget_gb:g}, and {needed_bytes / 1e9:.2g} GB more are needed"
    for each in going:
        remove_cache_entry(each.folder)
    free = shutil.disk_usage(root).free - RESERVED_DISK_BYTES
    return None if needed_bytes <= free else f"the disk of {root} has {max(0.0, free) / 1e9:.2g} GB to spare"


def _is_unused(folder: Path) -> bool:
    with try_exclusive_lock(folder / "set.json") as is_free:
        return is_free


def remove_cache_entry(folder: Path) -> bool:
    """Remove a set that nobody uses; whether it is gone."""
    with try_exclusive_lock(folder / "set.json") as is_free:
        if is_free:
            shutil.rmtree(folder, ignore_errors=True)
    return is_free
