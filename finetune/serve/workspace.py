"""The temporary folder of a server, for uploads, pictures and copies of videos; it is removed when the server ends."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from finetune.storage.atomic import fcntl

PREFIX = "finetune-serve-"
LOCK = ".lock"


class Workspace:
    """A new temporary folder that only this user can read; folders that a killed server left behind are removed."""

    def __init__(self) -> None:
        remove_left_behind(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def folder(self, name: str) -> Path:
        """A new empty folder."""
        folder = self.path / name
        folder.mkdir(mode=0o700)
        return folder

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)


def remove_left_behind(parent: Path) -> None:
    """Remove workspaces of servers that have ended: nobody holds their lock."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its server still runs
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def bytes_in(folder: Path) -> int:
    """The size of all files directly in a folder."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
