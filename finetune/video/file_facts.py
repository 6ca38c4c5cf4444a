"""Facts about the files of a manifest, cached beside it: a file is examined again only when it has changed.

The cache of `clips.csv` is the folder `.clips.csv.facts` beside it. Where that cannot be written, nothing is cached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import numpy as np

from finetune.data.intervals import WHOLE
from finetune.data.manifest import Manifest
from finetune.errors import RunError, VideoError
from finetune.storage.safe_read import BAD_ARRAY_ERRORS, read_array
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import VideoInfo
from finetune.video.interval_frames import duration_by_times, find_frames

FORMAT = 5  # increase when the files of the cache, or the facts in them, change
NO_LAYOUT = -1
NUM_FACTS = 6  # of each file: see _info_as_ints
MIN_SECONDS = 1e-3  # of a file whose frame has no duration
HEADER_LENGTH = 4  # integers before a layout's arrays
TIMES_IN_HEADER = 2  # place of the number of times in a layout's header
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

    def has_times(self, row: int) -> bool:
        """Whether the layout of a row is there and has the times of its frames."""
        start = int(self.positions[row])
        if self.flat is None or not 0 <= start <= len(self.flat) - HEADER_LENGTH:
            return False
        return bool(self.flat[start + TIMES_IN_HEADER] > 0)

    def at(self, rows: np.ndarray) -> GopLayoutStore:
        """The layouts of rows (M,), which may repeat."""
        return GopLayoutStore(self.path, self.positions[rows])

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

    `rates`, in frames a second, and `seconds` are rounded to thousandths, and 0 where unknown; a pack has neither, but
    for the `seconds` of intervals. Where a row is an interval, `num_frames` and `seconds` are those of the interval,
    `first_frames` has the number of its first frame in the file, `file_frames` how many the file has, and `file_rates`
    how many a second, by their times; these three are None where all rows are whole files. Where a row follows an
    object, `heights` and `widths` are those of its crop; `file_sizes` then has height and width of its file's picture.
    """

    num_frames: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    bad: dict[int, str]  # by row
    layouts: GopLayoutStore | None = None
    rates: np.ndarray | None = None
    seconds: np.ndarray | None = None
    first_frames: np.ndarray | None = None
    file_frames: np.ndarray | None = None
    file_rates: np.ndarray | None = None
    file_sizes: np.ndarray | None = None  # int64 (N, 2)

    def layout(self, row: int) -> GopLayout | None:
        return None if self.layouts is None else self.layouts[row]

    def of_rows(self, files: np.ndarray) -> FileFacts:
        """The facts of rows, given those of files; `files` (N,) is the number of each row's file."""
        rows_of: dict[int, list[int]] = {}
        for row, file in enumerate(files.tolist()):
            rows_of.setdefault(file, []).append(row)
        assert self.rates is not None and self.seconds is not None
        return FileFacts(
            self.num_frames[files],
            self.heights[files],
            self.widths[files],
            dict(sorted((row, reason) for file, reason in self.bad.items() for row in rows_of[file])),
            None if self.layouts is None else self.layouts.at(files),
            self.rates[files],
            self.seconds[files],
        )

    def with_intervals(self, manifest: Manifest, times_of_row: Callable[[int], np.ndarray]) -> FileFacts:
        """The facts of a manifest's rows, from those of their whole files.

        `times_of_row` gives the times (N,) of the frames of a row's file in seconds, from the beginning of the file; it
        is called file by file. A row without a frame counts as unreadable.
        """
        if manifest.intervals is None:
            return self
        num_frames, first_frames, bad = self.num_frames.copy(), np.zeros_like(self.num_frames), dict(self.bad)
        seconds = np.zeros(len(num_frames)) if self.seconds is None else self.seconds.copy()
        file_rates = np.zeros(len(num_frames))
        path, times_N = b"", np.empty(0)
        for row in np.argsort(manifest.paths, kind="stable").tolist():
            interval = manifest.interval(row)
            if row in bad or interval == WHOLE:
                continue
            if manifest.paths[row] != path:
                path, times_N = manifest.paths[row], times_of_row(row)
            frame_seconds = 0.0 if self.seconds is None else float(self.seconds[row])
            try:
                frames = find_frames(manifest.path(row), times_N, interval, frame_seconds=frame_seconds)
            except VideoError as error:
                bad[row], num_frames[row] = str(error), 0
                continue
            first_frames[row], num_frames[row] = frames.first, frames.number
            seconds[row] = frames.seconds
            file_rates[row] = len(times_N) / max(duration_by_times(times_N, frame_seconds), MIN_SECONDS)
        return replace(
            self,
            num_frames=num_frames,
            seconds=seconds,
            first_frames=first_frames,
            file_frames=self.num_frames,
            file_rates=file_rates,
            bad=dict(sorted(bad.items())),
        )


def typical_clip_seconds(manifest: Manifest, facts: FileFacts) -> float | None:
    """The median length of the readable training rows in seconds; None where no length is known."""
    if facts.seconds is None:
        return None
    rows = np.setdiff1d(manifest.rows("train"), list(facts.bad))
    known = facts.seconds[rows][facts.seconds[rows] > 0]
    return round(float(np.median(known)), 3) if len(known) else None


class FactsCache:
    """The facts of files, cached beside their manifest: columns with an item for each file, and a file of layouts."""

    def __init__(self, source: Path, paths: np.ndarray) -> None:
        """`paths` (F,) are absolute, UTF-8 bytes, each once."""
        source = source.absolute()
        self.folder = (source if source.is_dir() else source.parent) / f".{source.name}.facts"
        self.paths = paths
        self.stats = np.array([_size_and_time(Path(os.fsdecode(path))) for path in paths]).reshape(-1, 2)
        self.columns = self._load()
        place_of = {path: place for place, path in enumerate(self.columns["paths"].tolist())}
        places = np.array([place_of.get(path, UNKNOWN) for path in self.paths.tolist()], dtype=np.int64)
        same = [
            place != UNKNOWN and bool((self.columns["stats"][place] == self.stats[file]).all())
            for file, place in enumerate(places)
        ]
        self.places = np.where(same, places, UNKNOWN)

    def unknown(self, *, timed: np.ndarray) -> list[int]:
        """Numbers of files that are new or have changed since they were cached.

        Also of those in `timed`, bool (F,), whose cached layout lacks the times of frames.
        """
        layouts = self._cached_layouts()
        lacks_times = [bool(timed[file]) and not layouts.has_times(file) for file in range(len(self.paths))]
        return np.flatnonzero((self.places == UNKNOWN) | np.array(lacks_times, dtype=bool)).tolist()

    def add_scanned(self, results: dict[int, ScanResult]) -> tuple[FileFacts, np.ndarray]:
        """The facts of all files, given those of the `unknown` ones, which are added to the cache.

        And (F,) the timestamps in seconds at which the files begin, see `VideoInfo.start_seconds`.
        """
        bad = {file: str(result) for file, result in results.items() if isinstance(result, VideoError)}
        facts_F6 = np.zeros((len(self.paths), NUM_FACTS), dtype=np.int64)
        is_cached = self.places != UNKNOWN
        facts_F6[is_cached] = self.columns["facts"][self.places[is_cached]]
        cached = self._cached_layouts()
        layouts: GopLayoutStore | None = cached
        if len(results) > len(bad):
            new = {file: result[1] for file, result in results.items() if not isinstance(result, VideoError)}
            for file, result in results.items():
                if not isinstance(result, VideoError):
                    facts_F6[file] = _info_as_ints(result[0])
            all_layouts = [new[file] if file in new else cached[file] for file in range(len(self.paths))]
            layouts = self._save(facts_F6, all_layouts, bad)
        num_frames, heights, widths, rates, seconds, starts = facts_F6.T.copy()
        return FileFacts(num_frames, heights, widths, bad, layouts, rates / 1000, seconds / 1000), starts / 1e6

    def _cached_layouts(self) -> GopLayoutStore:
        positions = np.full(len(self.paths), NO_LAYOUT)
        is_cached = self.places != UNKNOWN
        positions[is_cached] = self.columns["positions"][self.places[is_cached]]
        return GopLayoutStore(self.folder / Path(str(self.columns["layouts"])).name, positions)

    def _load(self) -> dict[str, np.ndarray]:
        with (
            suppress(*BAD_ARRAY_ERRORS),
            (self.folder / COLUMNS_FILE).open("rb") as raw,
        ):
            file = np.load(raw)
            columns = {name: file[name] for name in ("paths", "stats", "facts", "positions", "layouts", "format")}
            if int(columns["format"]) == FORMAT and _are_consistent(columns):
                return columns
        nothing = {name: np.zeros((0, width), dtype=np.int64) for name, width in (("stats", 2), ("facts", NUM_FACTS))}
        return (
            nothing | {name: np.zeros(0, dtype=np.int64) for name in ("paths", "positions")} | {"layouts": np.array("")}
        )

    def _save(
        self, facts_F6: np.ndarray, layouts: Sequence[GopLayout | None], bad: dict[int, str]
    ) -> GopLayoutStore | None:
        """Write under new names, then replace the old files; None where that fails."""
        pieces = [np.zeros(0, dtype=np.int64) if layout is None else _serialize_layout(layout) for layout in layouts]
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        positions = np.where([layout is None for layout in layouts], NO_LAYOUT, starts)
        good = np.setdiff1d(np.arange(len(self.paths)), np.array(list(bad), dtype=np.int64))
        columns = {"paths": self.paths, "stats": self.stats, "facts": facts_F6, "positions": positions}
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
    shapes = {"stats": (count, 2), "facts": (count, NUM_FACTS), "positions": (count,)}
    fit = all(columns[name].shape == shape and columns[name].dtype == np.int64 for name, shape in shapes.items())
    return fit and columns["paths"].ndim == 1 and bool((columns["facts"] >= 0).all())


def _info_as_ints(info: VideoInfo) -> tuple[int, ...]:
    milliseconds, start = round(1000 * info.duration_seconds), round(1e6 * info.start_seconds)
    return info.num_frames, info.height, info.width, round(1000 * info.fps), milliseconds, start


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        return stamp(path)
    except OSError:
        return -1, -1
