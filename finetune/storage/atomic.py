"""Atomic writes (a file or folder is complete or absent, even if the program is killed while writing) and locks."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]


def user_cache_dir(name: str) -> Path:
    """The path of `finetune/<name>` in the user's cache folder, `XDG_CACHE_HOME` or `~/.cache`; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / name


def check_writable(path: Path) -> None:
    """Raise RunError if a file cannot be written; to be called before the work whose result goes into it."""
    if path.is_dir():
        raise RunError(f"{path}: is a folder; give the path of a file")
    try:
        if path.exists():
            with path.open("ab"):
                return
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}; give another path") from None


@contextmanager
def atomic_file(path: Path, *, concurrent_writers: bool = False) -> Iterator[Path]:
    """A temporary path next to `path` to write to; at the end of the block it is flushed to disk and replaces `path`.

    If the block fails, `path` stays unchanged. `concurrent_writers`: other processes may write it at the same time; the
    last one wins.
    """
    partial = path.with_name(f"{path.name}{f'.{os.getpid()}' if concurrent_writers else ''}.partial")
    partial.unlink(missing_ok=True)  # it may be a link to another file
    try:
        yield partial
        fsync_path(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder and all files in it.

    A folder cannot be replaced in one step: the previous one is renamed to `<name>.old`, then the new one is renamed
    to `path`. Readers find the valid one by `current_version`, also if the program was killed between the two steps.
    """
    partial, old = (path.with_name(f"{path.name}.{end}") for end in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.iterdir():
            fsync_path(file)
        fsync_path(partial)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        partial.rename(path)
        fsync_path(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def current_version(path: Path) -> Path:
    """The folder that `atomic_folder` last completed: `path`, or `<name>.old` if only that exists."""
    old = path.with_name(f"{path.name}.old")
    return old if old.exists() and not path.exists() else path


def remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that `atomic_folder` leaves if the program is killed."""
    partial, old = (path.with_name(f"{path.name}.{end}") for end in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def exclusive_lock(path: Path, refusal: str) -> Iterator[None]:
    """Lock a file until the end of the block or the program. Raises RunError(`refusal`) if it is locked already."""
    with path.open("w") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(refusal) from None
        yield


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Share a lock on a file with others that read it; meanwhile `try_exclusive_lock` gives False."""
    with path.open("rb") as file:
        if fcntl is not None:
            with suppress(OSError):  # not every file system supports locks
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def try_exclusive_lock(path: Path) -> Iterator[bool]:
    """Whether the file could be locked: no process has a `shared_lock` on it, and none gets one during the block."""
    with ExitStack() as held:
        try:
            file = held.enter_context(path.open("r+b"))
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except OSError:
            is_free = False
        yield is_free


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def fsync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    file = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
