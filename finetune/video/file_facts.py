"""Facts about the files of a manifest, cached beside it: a file is examined again only when it has changed.

The cache of `clips.csv` is the folder `.clips.csv.facts` beside it. Where that cannot be written, nothing is cached.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import RunError, VideoError
from finetune.storage.safe_read import BAD_ARRAY_ERRORS, read_array
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo

FORMAT = 4  # increase when the files of the cache, or the facts in them, change
NO_LAYOUT = -1
HEADER_LENGTH = 4  # integers before a layout's arrays
UNKNOWN = -1
COLUMNS_FILE = "facts.npz"
ScanResult = tuple[VideoInfo, GopLayout | None] | VideoError


class GopLayoutStore:
    """The layout of each row that has one, read from a memory-mapped file when needed: workers share its pages."""

    def __init__(self, path: Path, positions: np.ndarray) -> None:
        self.path = path
        self.positions = positions  # (N,) int64 offset of each row's layout in the file, or NO_LAYOUT
        self.flat: np.ndarray | None = None
        with suppress(RunError):
            flat = read_array(path, mapped=True)
            self.flat = flat if flat.ndim == 1 and flat.dtype == np.int64 else None

    def __reduce__(self) -> tuple[type, tuple[Path, np.ndarray]]:
        return GopLayoutStore, (self.path, self.positions)

    def __getitem__(self, row: int) -> GopLayout | None:
        start = int(self.positions[row])
        if self.flat is None or not 0 <= start <= len(self.flat) - HEADER_LENGTH:
            return None
        groups, frames, timed, one_frame_per_packet = self.flat[start : start + HEADER_LENGTH].tolist()
        if min(groups, frames, timed) < 0 or start + HEADER_LENGTH + 3 * groups + 2 + frames + timed > len(self.flat):
            return None
        lengths = np.cumsum([start + HEADER_LENGTH, groups + 1, groups + 1, groups, frames, timed])
        starts, before, seek_times, packets, times = (np.array(self.flat[a:b]) for a, b in pairwise(lengths))
        seconds = times.view(np.float64) if timed else None
        with suppress(AssertionError):  # a file that another program wrote
            return GopLayout(
                starts, before, seek_times, packets if frames else None, bool(one_frame_per_packet), seconds
            )
        return None


def _serialize_layout(layout: GopLayout) -> np.ndarray:
    """A layout as int64: the lengths of its arrays, then the arrays; times are stored as the bits of float64."""
    packets = np.zeros(0) if layout.packets is None else layout.packets
    times = np.zeros(0) if layout.times is None else layout.times
    head = [len(layout.seek_times), len(packets), len(times), layout.one_frame_per_packet]
    parts = (head, layout.starts, layout.frames_before, layout.seek_times, packets)
    return np.concatenate([*(np.asarray(part, dtype=np.int64) for part in parts), times.view(np.int64)])


@dataclass(frozen=True, eq=False)
class FileFacts:
    """Facts about a manifest's N rows as arrays (N,). Where a file cannot be read they are 0, and `bad` says why.

    `rates`, in frames a second, and `seconds` are rounded to thousandths, and 0 where unknown; a pack has neither.
    """

    num_frames: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    bad: dict[int, str]  # by row
    layouts: GopLayoutStore | None = None
    rates: np.ndarray | None = None
    seconds: np.ndarray | None = None

    def layout(self, row: int) -> GopLayout | None:
        return None if self.layouts is None else self.layouts[row]


class FactsCache:
    """The facts cached beside a manifest: columns with one item for each file, and a separate file of layouts."""

    def __init__(self, manifest: Manifest) -> None:
        source = manifest.source.absolute()
        self.folder = (source if source.is_dir() else source.parent) / f".{source.name}.facts"
        self.paths = manifest.paths
        self.stats = np.array([_size_and_time(manifest.path(row)) for row in range(len(manifest))]).reshape(-1, 2)
        self.columns = self._load()
        place_of = {path: place for place, path in enumerate(self.columns["paths"].tolist())}
        places = np.array([place_of.get(path, UNKNOWN) for path in self.paths.tolist()], dtype=np.int64)
        same = [
            place != UNKNOWN and bool((self.columns["stats"][place] == self.stats[row]).all())
            for row, place in enumerate(places)
        ]
        self.places = np.where(same, places, UNKNOWN)

    def unknown(self) -> list[int]:
        """Rows whose file is new or has changed since it was cached."""
        return np.flatnonzero(self.places == UNKNOWN).tolist()

    def add_scanned(self, results: dict[int, ScanResult]) -> FileFacts:
        """The facts of all rows, given those of the `unknown` rows, which are added to the cache."""
        bad = {row: str(result) for row, result in results.items() if isinstance(result, VideoError)}
        facts_N5 = np.zeros((len(self.paths), 5), dtype=np.int64)
        is_cached = self.places != UNKNOWN
        facts_N5[is_cached] = self.columns["facts"][self.places[is_cached]]
        positions = np.full(len(self.paths), NO_LAYOUT)
        positions[is_cached] = self.columns["positions"][self.places[is_cached]]
        cached = GopLayoutStore(self.folder / Path(str(self.columns["layouts"])).name, positions)
        layouts: GopLayoutStore | None = cached
        if len(results) > len(bad):
            new = {row: result[1] for row, result in results.items() if not isinstance(result, VideoError)}
            for row, result in results.items():
                if not isinstance(result, VideoError):
                    facts_N5[row] = _info_as_ints(result[0])
            all_layouts = [new[row] if row in new else cached[row] for row in range(len(self.paths))]
            layouts = self._save(facts_N5, all_layouts, bad)
        num_frames, heights, widths, rates, seconds = facts_N5.T.copy()
        return FileFacts(num_frames, heights, widths, bad, layouts, rates / 1000, seconds / 1000)

    def _load(self) -> dict[str, np.ndarray]:
        with (
            suppress(*BAD_ARRAY_ERRORS),
            (self.folder / COLUMNS_FILE).open("rb") as raw,
        ):
            file = np.load(raw)
            columns = {name: file[name] for name in ("paths", "stats", "facts", "positions", "layouts", "format")}
            if int(columns["format"]) == FORMAT and _are_consistent(columns):
                return columns
        nothing = {name: np.zeros((0, width), dtype=np.int64) for name, width in (("stats", 2), ("facts", 5))}
        return (
            nothing | {name: np.zeros(0, dtype=np.int64) for name in ("paths", "positions")} | {"layouts": np.array("")}
        )

    def _save(
        self, facts_N5: np.ndarray, layouts: Sequence[GopLayout | None], bad: dict[int, str]
    ) -> GopLayoutStore | None:
        """Write under new names, then replace the old files; None where that fails."""
        pieces = [np.zeros(0, dtype=np.int64) if layout is None else _serialize_layout(layout) for layout in layouts]
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        positions = np.where([layout is None for layout in layouts], NO_LAYOUT, starts)
        good = np.setdiff1d(np.arange(len(self.paths)), np.array(list(bad), dtype=np.int64))
        columns = {"paths": self.paths, "stats": self.stats, "facts": facts_N5, "positions": positions}
        path = self.folder / f"layouts-{uuid4().hex}.npy"
        try:
            self.folder.mkdir(exist_ok=True)
            before = list(self.folder.glob("layouts-*.npy"))
            np.save(path, np.concatenate(pieces))
            partial = self.folder / f"{uuid4().hex}.npz"
            columns = {name: column[good] for name, column in columns.items()}
            columns |= {"format": np.array(FORMAT), "layouts": np.array(path.name)}
            np.savez(partial, allow_pickle=False, **columns)
            partial.replace(self.folder / COLUMNS_FILE)
        except OSError:
            return None
        for old in before:  # a process that has it open can go on reading it
            old.unlink(missing_ok=True)
        return GopLayoutStore(path, positions)


def _are_consistent(columns: dict[str, np.ndarray]) -> bool:
    """Whether columns have the right shapes and types: the folder of a manifest may come from anyone."""
    count = len(columns["paths"])
    shapes = {"stats": (count, 2), "facts": (count, 5), "positions": (count,)}
    fit = all(columns[name].shape == shape and columns[name].dtype == np.int64 for name, shape in shapes.items())
    return fit and columns["paths"].ndim == 1 and bool((columns["facts"] >= 0).all())


def _info_as_ints(info: VideoInfo) -> tuple[int, ...]:
    return info.num_frames, info.height, info.width, round(1000 * info.fps), round(1000 * info.duration_seconds)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        return stamp(path)
    except OSError:
        return -1, -1
