"""A file of lines that several processes append to: no line is lost, mixed with another or overwritten.

A line counts once its line end is written. What follows the last line end was being written when a program was killed:
readers ignore it, and the next writer removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import DataError
from finetune.storage.atomic import fsync_path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]


class LineFile:
    """Gives each line once; another process may append at any time, or put another file in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0  # after the last line that was read
        self._identity: tuple[int, int] | None = None

    def read_new(self) -> tuple[list[bytes], bool]:
        """The lines that were completed since the last call, and whether they start anew: the file was replaced."""
        try:
            with self.path.open("rb") as file:
                return self._read_new(file.fileno())
        except FileNotFoundError:
            was_read, self._offset, self._identity = self._offset > 0, 0, None
            return [], was_read
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _read_new(self, file: int) -> tuple[list[bytes], bool]:
        status = os.fstat(file)
        identity = (status.st_dev, status.st_ino)
        is_replaced = self._offset > 0 and (identity != self._identity or status.st_size < self._offset)
        self._identity, self._offset = identity, 0 if is_replaced else self._offset
        data = _read_at(file, self._offset, status.st_size)
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.split(b"\n")[:-1], is_replaced

    @contextmanager
    def locked(self) -> Iterator[LockedFile]:
        """The file, created if it is missing, locked until the end of the block: others wait to append.

        Raises DataError where it cannot be written or locked.
        """
        try:
            descriptor = self._open_locked()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened for changes and locked: {error.strerror}") from None
        try:
            yield LockedFile(self, descriptor)
        finally:
            os.close(descriptor)

    def _open_locked(self) -> int:
        while True:
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_new:
                    fsync_path(self.path.parent)
                opened, current = os.fstat(descriptor), self.path.stat()
                if (opened.st_dev, opened.st_ino) == (current.st_dev, current.st_ino):
                    return descriptor
            except FileNotFoundError:
                pass  # it was removed while this process waited for the lock
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


class LockedFile:
    """A `LineFile` while this process has the lock."""

    def __init__(self, lines: LineFile, descriptor: int) -> None:
        self._lines = lines
        self._descriptor = descriptor

    def read_new(self) -> tuple[list[bytes], bool]:
        """See `LineFile.read_new`."""
        return self._lines._read_new(self._descriptor)

    def append(self, line: bytes) -> None:
        """Write a line, which has no line end of its own, and wait until it is on the disk.

        All lines must have been read. Where the disk is full the file stays as it was. Raises DataError.
        """
        assert b"\n" not in line
        end = self._lines._offset
        os.ftruncate(self._descriptor, end)
        try:
            left = line + b"\n"
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise DataError(f"{self._lines.path}: cannot be written: {error.strerror}; nothing was changed") from None
        self._lines._offset = end + len(line) + 1


def _read_at(file: int, start: int, end: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    parts = []
    while start < end and (part := os.read(file, end - start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)
