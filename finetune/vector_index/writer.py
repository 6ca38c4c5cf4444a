"""Write an index folder: add rows, remove rows, go on after an interruption.

A shard is written completely before `index.json` names it, and `index.json` is replaced in one step. So the folder is a
whole index at any time, up to the last shard that was written. One program writes at a time; others may read.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import numpy as np

from finetune.errors import IndexFolderError, RunError, shorten_list
from finetune.storage.atomic import exclusive_lock
from finetune.vector_index.entry import EmbeddingSource, Entry, entry_to_json, unit_ids
from finetune.vector_index.index import INDEX_FILE, SHARD_NAME, read_index_file, write_index_file
from finetune.vector_index.shard import Shard, rows_per_shard, write_shard

LOCK_FILE = "lock"
SHARD_SECONDS = 60.0  # of work that a kill loses at most


class IndexWriter:
    """Adds rows to an index, which it creates if there is none, and removes rows. To be used in a `with` block.

    Rows that were added are written at the end of the block at the latest, also after Ctrl-C. Raises IndexFolderError
    where the folder is something else, was made by another model, or another program writes to it.
    """

    def __init__(self, folder: Path, source: EmbeddingSource) -> None:
        self.folder = folder
        self.source = source
        self._shards: list[Shard] = []
        self._tail = _Tail()
        self._lock = ExitStack()
        self._saved = time.monotonic()

    def __enter__(self) -> "IndexWriter":
        try:
            _check_folder(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            refusal = f"{self.folder}: another program is writing this index; wait until it has finished"
            self._lock.enter_context(exclusive_lock(self.folder / LOCK_FILE, refusal))
            if (self.folder / INDEX_FILE).exists():
                source, self._shards = read_index_file(self.folder)
                _check_same_source(self.folder, source, self.source)
                for shard in self._shards:
                    shard.check()
            else:
                write_index_file(self.folder, self.source, [])
            self._remove_unnamed_shards()
        except BaseException as error:
            self._lock.close()
            if isinstance(error, OSError):
                raise _write_error(self.folder, error) from None
            raise IndexFolderError(str(error)) from None if isinstance(error, RunError) else error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, OSError | IndexFolderError):
                self.flush()
        finally:
            self._lock.close()

    def add(self, entries: Sequence[Entry], vectors_ND: np.ndarray) -> None:
        """Add rows at the end: N entries with their vectors (N, D), which have length 1."""
        vectors_ND = np.asarray(vectors_ND, dtype=np.float32)
        assert vectors_ND.shape == (len(entries), self.source.dim), "one vector for each entry, of the source's length"
        assert np.allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-3), "vectors have length 1"
        limit = rows_per_shard(self.source.dim)
        while len(entries):
            self._continue_last_shard(limit)
            count = min(len(entries), limit - len(self._tail.lines))
            self._tail.add(entries[:count], vectors_ND[:count])
            entries, vectors_ND = entries[count:], vectors_ND[count:]
            if len(self._tail.lines) == limit or time.monotonic() - self._saved > SHARD_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write the rows that were added since the last flush. Raises IndexFolderError where that fails."""
        if not self._tail.unsaved:
            return
        kept = [shard for shard in self._shards if shard is not self._tail.saved_as]
        shard = self._write(self._tail.vectors(), self._tail.units(), self._tail.lines)
        self._publish([*kept, shard])
        self._tail.saved_as, self._tail.unsaved = shard, 0
        self._saved = time.monotonic()

    def remove(self, is_removed: Callable[[Entry], bool]) -> int:
        """Remove the rows whose entries `is_removed` chooses, all in one step; gives their number."""
        self.flush()
        self._tail = _Tail()
        shards, count = [], 0
        for shard in self._shards:
            lines = shard.lines()
            is_kept = np.array([not is_removed(entry) for entry in shard.entries()])
            if is_kept.all():
                shards.append(shard)
            elif is_kept.any():
                kept_lines = [line for line, kept in zip(lines, is_kept, strict=True) if kept]
                shards.append(self._write(shard.vectors()[is_kept], shard.units()[is_kept], kept_lines))
            count += int((~is_kept).sum())
        if count:
            self._publish(shards)
        return count

    def _continue_last_shard(self, limit: int) -> None:
        """Let the rows that are added next go into the last shard, if it is not full, or into a new one."""
        if len(self._tail.lines) >= limit:
            self._tail = _Tail()
        elif not self._tail.lines and self._shards and self._shards[-1].rows < limit:
            self._tail = _Tail.of(self._shards[-1])

    def _write(self, vectors_ND: np.ndarray, units_NU: np.ndarray, lines: Sequence[bytes]) -> Shard:
        path = self.folder / f"vectors-{uuid4().hex}.safetensors"
        try:
            write_shard(path, vectors_ND, units_NU, lines)
        except OSError as error:
            raise _write_error(self.folder, error) from None
        return Shard(path, len(lines), self.source.dim)

    def _publish(self, shards: list[Shard]) -> None:
        """Make these the shards of the index, then delete the files of others."""
        try:
            write_index_file(self.folder, self.source, shards)
            self._shards = shards
            self._remove_unnamed_shards()
        except OSError as error:
            raise _write_error(self.folder, error) from None

    def _remove_unnamed_shards(self) -> None:
        """Delete shards that `index.json` does not name: replaced ones, and those of a program that was killed."""
        named = {shard.path.name for shard in self._shards}
        for path in self.folder.iterdir():
            if SHARD_NAME.fullmatch(path.name.removesuffix(".partial")) and path.name not in named:
                path.unlink(missing_ok=True)


class _Tail:
    """The rows of the last shard, saved or not, until it is full."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.saved_as: Shard | None = None
        self.unsaved = 0
        self._vectors: list[np.ndarray] = []
        self._units: list[np.ndarray] = []

    @classmethod
    def of(cls, shard: Shard) -> "_Tail":
        tail = cls()
        tail.lines, tail._vectors, tail._units = shard.lines(), [shard.vectors()], [shard.units()]
        tail.saved_as = shard
        return tail

    def add(self, entries: Sequence[Entry], vectors_ND: np.ndarray) -> None:
        self.lines += map(entry_to_json, entries)
        self._vectors.append(vectors_ND.copy())
        self._units.append(unit_ids(entries))
        self.unsaved += len(entries)

    def vectors(self) -> np.ndarray:
        return np.concatenate(self._vectors)

    def units(self) -> np.ndarray:
        return np.concatenate(self._units)


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other things in it, and links in place of the files that are written."""
    if folder.exists() and not folder.is_dir():
        raise IndexFolderError(f"{folder}: is a file; give the path of a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    for name in (INDEX_FILE, LOCK_FILE):
        if (folder / name).is_symlink():
            raise IndexFolderError(f"{folder / name}: is a link; put the file itself there")
    others = [name for name in names if name != LOCK_FILE and not name.startswith(("vectors-", INDEX_FILE))]
    if others and INDEX_FILE not in names:
        raise IndexFolderError(
            f"{folder}: is not an index, and not empty (it has {shorten_list(others, limit=3)}); give a new folder"
        )


def _check_same_source(folder: Path, source: EmbeddingSource, wanted: EmbeddingSource) -> None:
    if differences := source.differences(wanted):
        raise IndexFolderError(
            f"{folder}: was made by another model: {shorten_list(differences)}; use the same model, or a new folder"
        )


def _write_error(folder: Path, error: OSError) -> IndexFolderError:
    return IndexFolderError(f"{folder}: cannot be written: {error.strerror or error}; free some space, or use another")
