"""Read an index folder: `index.json` names the model and the shards; each shard holds vectors and their entries.

The folder may come from somebody else: nothing in it is executed, and only files that lie in it are read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import IndexFolderError, RunError
from finetune.storage.atomic import write_json
from finetune.storage.safe_read import read_text_file
from finetune.vector_index.entry import EmbeddingSource, Entry
from finetune.vector_index.shard import Shard

FORMAT = 1  # increase when the file format changes
INDEX_FILE = "index.json"
SHARD_NAME = re.compile(r"vectors-[0-9a-f]{32}\.safetensors")


class VectorIndex:
    """Vectors of length 1 in a folder, in the order in which they were added. Rows count from 0."""

    def __init__(self, folder: Path, source: EmbeddingSource, shards: list[Shard]) -> None:
        self.folder = folder
        self.source = source
        self._shards = shards

    @classmethod
    def open(cls, folder: Path) -> "VectorIndex":
        """The index in a folder; it may be empty. Raises IndexFolderError where there is none or it is damaged."""
        source, shards = read_index_file(folder)
        for shard in shards:
            shard.check()
        return cls(folder, source, shards)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def content_id(self) -> str:
        """A hash that changes with the rows of the index."""
        return sha256("".join(shard.path.name for shard in self._shards).encode()).hexdigest()

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first row of each shard, and its vectors (N, D) float32; one shard is in memory at a time."""
        for first, shard in zip(self._ends, self._shards, strict=False):
            yield int(first), shard.vectors()

    def entries(self) -> Iterator[Entry]:
        """The entries of all rows, in order; one shard is in memory at a time."""
        for shard in self._shards:
            yield from shard.entries()

    def units(self) -> np.ndarray:
        """Ids (N, 2) of the file and the group of each row, as by `unit_ids`; 16 bytes a row."""
        parts = [np.empty((0, 2), dtype=np.int64), *(shard.units() for shard in self._shards)]
        return np.concatenate(parts)

    def entry(self, row: int) -> Entry:
        """The entry of a row. Raises IndexFolderError where there is no such row."""
        shard, position = self._locate(row)
        return shard.entries(position, position + 1)[0]

    def entries_at(self, rows: Sequence[int]) -> list[Entry]:
        """The entries of some rows, in the order of `rows`; each shard is read once."""
        found: dict[int, Entry] = {}
        shards_R = np.searchsorted(self._ends, np.asarray(rows, dtype=np.int64), side="right") - 1
        for number in np.unique(shards_R).tolist():
            first = int(self._ends[number])
            of_shard = [row for row, shard in zip(rows, shards_R, strict=True) if shard == number]
            entries = self._shards[number].entries_at([row - first for row in of_shard])
            found |= dict(zip(of_shard, entries, strict=True))
        return [found[row] for row in rows]

    def vector(self, row: int) -> np.ndarray:
        """The vector (D,) of a row. Raises IndexFolderError where there is no such row."""
        shard, position = self._locate(row)
        return shard.vectors(position, position + 1)[0]

    @cached_property
    def _ends(self) -> np.ndarray:
        """The first row of each shard (S + 1), and the number of all rows."""
        return np.cumsum([0, *(shard.rows for shard in self._shards)])

    def _locate(self, row: int) -> tuple[Shard, int]:
        if not 0 <= row < len(self):
            raise IndexFolderError(f"{self.folder}: there is no row {row}; it has {len(self)} rows, counted from 0")
        number = int(np.searchsorted(self._ends, row, side="right")) - 1
        return self._shards[number], row - int(self._ends[number])


def read_index_file(folder: Path) -> tuple[EmbeddingSource, list[Shard]]:
    """The source and the shards that `index.json` names. Raises IndexFolderError where it is missing or damaged."""
    path = folder / INDEX_FILE
    try:
        text = None if path.is_symlink() else read_text_file(path)
    except RunError as error:
        raise IndexFolderError(str(error)) from None
    if text is None:
        raise IndexFolderError(
            f"{folder}: is not an index: it has no {INDEX_FILE}; make one with: finetune index SOURCE --out {folder}"
        )
    try:
        content = json.loads(text)
        _check_version(folder, content)
        source = EmbeddingSource(**content["source"])
        _check_source(source)
        return source, [_parse_shard(folder, source.dim, item) for item in content["shards"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise IndexFolderError(
            f"{path}: is damaged ({type(error).__name__}: {str(error)[:100]}); index the videos again into a new folder"
        ) from None


def write_index_file(folder: Path, source: EmbeddingSource, shards: list[Shard]) -> None:
    """Write `index.json` atomically: from then on the index has these shards. Raises OSError."""
    named = [{"file": shard.path.name, "rows": shard.rows} for shard in shards]
    write_json(folder / INDEX_FILE, {"format": FORMAT, "source": asdict(source), "shards": named})


def _check_version(folder: Path, content: Mapping[str, Any]) -> None:
    version = content["format"]
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"format {version!r}")
    if version > FORMAT:
        raise IndexFolderError(
            f"{folder}: was written by a newer version of finetune (index format {version}; this one reads {FORMAT}); "
            "update finetune, or index the videos again into a new folder"
        )


def _check_source(source: EmbeddingSource) -> None:
    texts = (source.name, source.weights)
    if source.kind not in ("run", "backbone", "text") or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"source of kind {source.kind!r}")
    if source.kind == "run" and source.name.startswith("hf:"):  # written are paths; this would be downloaded
        raise ValueError(f"run {source.name!r}, which is not a folder")
    if not isinstance(source.dim, int) or not 1 <= source.dim <= 2**20 or not isinstance(source.settings, dict):
        raise ValueError(f"source with vectors of length {source.dim!r}")


def _parse_shard(folder: Path, dim: int, item: Mapping[str, Any]) -> Shard:
    name, rows = item["file"], item["rows"]
    if not SHARD_NAME.fullmatch(name) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"shard {name!r} with {rows!r} rows")
    return Shard(folder / name, rows, dim)
