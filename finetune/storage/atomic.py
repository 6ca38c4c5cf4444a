"""Atomic writes: a file or folder is complete or absent, even if the program is killed while writing. And locks."""

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
    """A folder of ours in the user's cache, `XDG_CACHE_HOME` or `~/.cache`; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune" / name


def check_writable(path: Path) -> None:
    """Try whether a file can be written, before the work whose result it is to hold. Raises RunError."""
    if path.is_dir():
        raise RunError(f"{path}: is a folder, and would have to be a file; name a file")
    try:
        if path.exists():
            with path.open("ab"):
                return
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}; name another place") from None


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
    """The same for a folder, with all files in it.

    A folder cannot be replaced in one step: the one before steps aside as `<name>.old`, then the new one takes its
    place. Read it by `current_version`, which knows of the moment between.
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
    """The folder that `atomic_folder` writes: the previous one as long as the new one is not in its place."""
    old = path.with_name(f"{path.name}.old")
    return old if old.exists() and not path.exists() else path


def remove_leftovers(path: Path) -> None:
    """Remove what a kill has left beside a folder that `atomic_folder` writes."""
    partial, old = (path.with_name(f"{path.name}.{end}") for end in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def exclusive_lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file until the end of this block or of the program; where it is held, RunError with `refusal`."""
    with path.open("w") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(refusal) from None
        yield


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold a file that others may use at the same time, but not remove as long as they ask by `try_exclusive_lock`."""
    with path.open("rb") as file:
        if fcntl is not None:
            with suppress(OSError):  # not every file system knows of locks
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def try_exclusive_lock(path: Path) -> Iterator[bool]:
    """Whether no process holds a `shared_lock` on a file; while the block lasts, none can take one."""
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
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    file = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
