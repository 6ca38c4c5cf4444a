"""Which changed copies of a clip `finetune check` finds, and how often it calls different clips copies.

    FINETUNE_REAL=<folder> python benchmarks/near_copies.py --cache <folder> [--half choose|report]

Copies are made from real clips (UT-Interaction, yoga poses) and from the quickstart's: one file for each clip and each
change of `CHANGES`. A set of the originals and of the copies with one change is searched at a time, and the share of
copies that are found with their original is printed. Pairs of different originals, and of parts of one clip that do not
overlap, must not be found. Groups of clips are divided in halves: thresholds were chosen on `choose`.
"""

import argparse
import csv
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from finetune.checks.near_copies import find_near_copies
from finetune.datasets import quickstart
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames
from finetune.video.fingerprints import near_duplicates
from finetune.video.probe_files import ClipOfFile, inspect_files

SIDE = 426  # longer side in pixels of the frames that copies are made from
CLIPS = {"ut_interaction": 20, "yoga_poses": 8, "quickstart": 8}  # sources of copies in each half


@dataclass(frozen=True)
class Change:
    """How a copy differs: a function of frames (T, H, W, 3) and frame rate that gives both, and the encoder."""

    change: Callable[[np.ndarray, float], tuple[np.ndarray, float]] = lambda frames, fps: (frames, fps)
    encoder: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "crf": "26"})
    suffix: str = ".mp4"


def scaled(frames, fps, *, height=1.0, width=1.0):
    size = round(frames.shape[2] * width), round(frames.shape[1] * height)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]), fps


def at_rate(frames, fps, *, rate):
    times = np.arange(0, len(frames) / fps, 1 / rate)
    return frames[np.minimum(np.rint(times * fps).astype(int), len(frames) - 1)], rate


def crop(frames, fps, *, share, place):
    """Keep a share of height and width; `place` is (down, right), 0 to 1: (0.5, 0.5) is the centre."""
    height, width = frames.shape[1:3]
    rows, columns = round(height * share), round(width * share)
    top, left = round((height - rows) * place[0]), round((width - columns) * place[1])
    return frames[:, top : top + rows, left : left + columns], fps


def later(frames, fps, *, seconds=1.0):
    return frames[min(round(seconds * fps), round(0.4 * len(frames))) :], fps


def part(frames, fps, *, start, end):
    """The part of a clip between two shares of its length."""
    return frames[round(start * len(frames)) : round(end * len(frames))], fps


def mirrored(frames, fps):
    return frames[:, :, ::-1], fps


def levels(frames, fps, *, gain=1.0, add=0.0, gamma=1.0):
    table = np.clip(255 * np.clip(np.arange(256) / 255, 0, 1) ** gamma * gain + add, 0, 255).astype(np.uint8)
    return table[frames], fps


def grey(frames, fps):
    return np.stack([cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for f in frames]), fps


def bars(frames, fps, *, down=0.0, right=0.0):
    """Black bars, of a share of height or width, at both sides."""
    rows, columns = round(frames.shape[1] * down), round(frames.shape[2] * right)
    return np.pad(frames, ((0, 0), (rows, rows), (columns, columns), (0, 0))), fps


def overlay(frames, fps):
    """A logo with a ground, and a line of text at the bottom."""
    frames = frames.copy()
    height, width = frames.shape[1:3]
    for frame in frames:
        cv2.rectangle(
            frame,
            (round(0.72 * width), round(0.04 * height)),
            (round(0.97 * width), round(0.16 * height)),
            (230, 40, 40),
            -1,
        )
        cv2.putText(
            frame,
            "NEWS",
            (round(0.74 * width), round(0.14 * height)),
            cv2.FONT_HERSHEY_SIMPLEX,
            height / 340,
            (255, 255, 255),
            2,
        )
        cv2.putText(
            frame,
            "what happened today",
            (round(0.05 * width), round(0.92 * height)),
            cv2.FONT_HERSHEY_SIMPLEX,
            height / 400,
            (255, 255, 0),
            2,
        )
    return frames, fps


def on_a_screen(frames, fps):
    """As recorded from a screen: within a desktop with a title bar, icons and a background that is not flat."""
    count, height, width = frames.shape[:3]
    rng = np.random.default_rng(height * width)
    tall, wide = round(height / 0.75), round(width / 0.7)
    noise = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    desktop = cv2.resize(noise, (wide, tall), interpolation=cv2.INTER_CUBIC)
    top, left = round(0.15 * tall), round(0.08 * wide)
    desktop[top - 14 : top, left : left + width] = (200, 200, 205)
    for icon in range(5):
        cv2.rectangle(desktop, (wide - 30, 20 + 40 * icon), (wide - 10, 40 + 40 * icon), (250, 250, 250), -1)
    screen = np.repeat(desktop[None], count, 0)
    screen[:, top : top + height, left : left + width] = frames
    return screen, fps


def rotated(frames, fps, *, degrees=4.0):
    height, width = frames.shape[1:3]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.1)
    return np.stack([cv2.warpAffine(frame, turn, (width, height)) for frame in frames]), fps


def all_of(*changes):
    def change(frames, fps):
        for one in changes:
            frames, fps = one(frames, fps)
        return frames, fps

    return change


CENTRE, CORNER, OTHER_CORNER = (0.5, 0.5), (0.0, 0.0), (1.0, 1.0)
_POOR = {"preset": "veryfast", "crf": "35"}
CHANGES: dict[str, Change] = {
    "encoded again, CRF 35": Change(options=_POOR),
    "MPEG-4, low rate": Change(encoder="mpeg4", options={"qmin": "14", "qmax": "14", "b": "200k"}, suffix=".avi"),
    "half size": Change(partial(scaled, height=0.5, width=0.5)),
    "other aspect ratio": Change(partial(scaled, width=0.7)),
    "15 frames per second": Change(partial(at_rate, rate=15)),
    "24 frames per second": Change(partial(at_rate, rate=24)),
    "cropped to 90 %, centre": Change(partial(crop, share=0.9, place=CENTRE)),
    "cropped to 90 %, corner": Change(partial(crop, share=0.9, place=CORNER)),
    "cropped to 80 %, centre": Change(partial(crop, share=0.8, place=CENTRE)),
    "cropped to 80 %, corner": Change(partial(crop, share=0.8, place=OTHER_CORNER)),
    "cropped to 70 %, centre": Change(partial(crop, share=0.7, place=CENTRE)),
    "cropped to 70 %, corner": Change(partial(crop, share=0.7, place=CORNER)),
    "starts a second later": Change(later),
    "middle half": Change(partial(part, start=0.25, end=0.75)),
    "second half": Change(partial(part, start=0.5, end=1.0)),
    "1.25 × as fast": Change(lambda frames, fps: (frames, fps * 1.25)),
    "mirrored": Change(mirrored),
    "brighter, more contrast": Change(partial(levels, gain=1.25, add=10)),
    "gamma 0.6": Change(partial(levels, gamma=0.6)),
    "grey": Change(grey),
    "letterboxed": Change(partial(bars, down=0.15)),
    "pillarboxed": Change(partial(bars, right=0.2)),
    "logo and text": Change(overlay),
    "recorded from a screen": Change(on_a_screen),
    "turned by 4 degrees": Change(rotated),
    "CRF 32, cropped to 80 %, a second later": Change(
        all_of(partial(crop, share=0.8, place=CENTRE), later), options={"preset": "veryfast", "crf": "32"}
    ),
    "mirrored, cropped to 90 %, gamma 0.7": Change(
        all_of(mirrored, partial(crop, share=0.9, place=CORNER), partial(levels, gamma=0.7)), options=_POOR
    ),
}
PARTS = {"first 45 %": (0.0, 0.45), "last 45 %": (0.55, 1.0)}  # of one clip: not copies of each other


def write_copy(path: Path, frames: np.ndarray, fps: float, change: Change) -> None:
    frames, fps = change.change(frames, fps)
    height, width = (side - side % 2 for side in frames.shape[1:3])
    with av.open(str(path), "w") as file:
        stream = file.add_stream(change.encoder, rate=round(fps), options=change.options | {"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if change.encoder == "mpeg4":
            stream.codec_context.qmin = stream.codec_context.qmax = int(change.options["qmin"])
        for frame in frames[:, :height, :width]:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode(None))


def make_copies(original: Path, folder: Path) -> None:
    """Write all copies and parts of a clip into a folder; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: change for name, change in CHANGES.items() if not (folder / (name + change.suffix)).exists()}
    wanted |= {
        name: Change(partial(part, start=start, end=end))
        for name, (start, end) in PARTS.items()
        if not (folder / f"{name}.mp4").exists()
    }
    if not wanted:
        return
    info = probe(original)
    scale = min(1, SIDE / max(info.height, info.width))
    size = round(info.height * scale), round(info.width * scale)
    frames = read_frames(original, range(info.num_frames), size=size)[0].transpose(0, 2, 3, 1)
    for name, change in wanted.items():
        unfinished = folder / f"unfinished{change.suffix}"
        write_copy(unfinished, frames, info.fps, change)
        unfinished.rename(folder / (name + change.suffix))


@dataclass(frozen=True)
class Source:
    """A clip: its file, data set, group, and the folder of its copies."""

    path: Path
    data: str
    group: str
    copies: Path | None = None


def in_half(group: str, half: str) -> bool:
    """Groups with an odd number belong to the half `choose`."""
    number = int("".join(filter(str.isdigit, group)))
    return (number % 2 == 1) == (half == "choose")


def sources(half: str, cache: Path, real: Path) -> list[Source]:
    """All clips of a half; those with copies are spread over groups."""
    folder = cache / "quickstart"
    if not (folder / "manifest.csv").exists():
        quickstart.draw_quickstart(folder, groups={"train": 16, "val": 1, "test": 1})
    chosen = []
    for data, place in (("ut_interaction", real / "data"), ("yoga_poses", real / "data"), ("quickstart", cache)):
        manifest = place / data / ("manifest.csv" if data == "quickstart" else "clips.csv")
        rows = list(csv.DictReader(manifest.open()))
        rows = [row for row in rows if in_half(row["group"], half) and row.get("split", "train") == "train"]
        rng = np.random.default_rng(0)
        order = sorted(range(len(rows)), key=lambda row: rng.random())
        seen: dict[str, int] = {}
        rank = {}
        for row in order:  # the first of each group come first
            seen[rows[row]["group"]] = seen.get(rows[row]["group"], 0) + 1
            rank[row] = seen[rows[row]["group"]]
        copied = set(sorted(order, key=lambda row: rank[row])[: CLIPS[data]])
        for number, row in enumerate(rows):
            path = place / data / row["path"]
            copies = cache / "copies" / data / path.parent.name / path.stem if number in copied else None
            chosen.append(Source(path, data, f"{data} {row['group']}", copies))
    return chosen


def make_all(clips: list[Source]) -> None:
    with_copies = [clip for clip in clips if clip.copies is not None]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(make_copies, [c.path for c in with_copies], [c.copies for c in with_copies]))


@dataclass(frozen=True)
class Examined:
    """Files with their inspections: which source each comes from, its change, and its data set."""

    files: list[Path]
    inspections: list
    source: np.ndarray
    kind: np.ndarray  # "original", or the name of a change or part
    data: np.ndarray


def examine(clips: list[Source]) -> Examined:
    rows = []
    for number, clip in enumerate(clips):
        rows.append((clip.path, number, "original", clip.data))
        copies = [] if clip.copies is None else sorted(clip.copies.iterdir())
        rows += [(path, number, path.stem, clip.data) for path in copies if path.stem != "unfinished"]
    files, source, kind, data = (list(column) for column in zip(*rows, strict=True))
    return Examined(files, inspect_files(files, seconds=120), np.array(source), np.array(kind), np.array(data))


Pairs = set[tuple[int, int]]


def search(examined: Examined, chosen: np.ndarray) -> tuple[Pairs, Pairs]:
    """The pairs that fingerprints of first, middle and last frames give, and those that `find_near_copies` gives."""
    inspections = [examined.inspections[number] for number in chosen]
    parts = [ClipOfFile(examined.files[number]) for number in chosen]
    pictures = np.stack([inspection.pictures_5SS[::2] for inspection in inspections])
    before = {(chosen[one], chosen[other]) for one, other, _ in near_duplicates(pictures)}
    found = find_near_copies(parts, inspections, np.arange(len(parts)), reading=(25.0, 120.0))
    return before, {tuple(sorted((chosen[copy.whole], chosen[copy.part]))) for copy in found if not copy.still}


def wrong(pairs: Pairs, examined: Examined) -> int:
    """Pairs of different clips, or of parts of one that do not overlap."""
    return sum(
        examined.source[one] != examined.source[other] or {examined.kind[one], examined.kind[other]} == PARTS.keys()
        for one, other in pairs
    )


def report(examined: Examined) -> None:
    originals = np.flatnonzero(examined.kind == "original")
    names = list(CLIPS)
    print(f"{'':42}{''.join(f'{name:>18}' for name in names)}   wrong pairs")
    parts = np.flatnonzero(np.isin(examined.kind, list(PARTS)))
    for what, chosen in (("no copies", originals), ("parts of one clip that do not overlap", parts)):
        before, now = search(examined, chosen)
        print(f"{what:42}{'':{18 * len(names)}}   {wrong(before, examined)} -> {wrong(now, examined)}")
    for change in CHANGES:
        copies = np.flatnonzero(examined.kind == change)
        before, now = search(examined, np.concatenate([originals, copies]))
        cells = []
        for name in names:
            true = {
                tuple(sorted((int(copy), int(originals[examined.source[originals] == examined.source[copy]][0]))))
                for copy in copies[examined.data[copies] == name]
            }
            cells.append(f"{len(before & true)} -> {len(now & true)} of {len(true)}")
        wrongs = f"{wrong(before, examined)} -> {wrong(now, examined)}"
        print(f"{change:42}{''.join(f'{cell:>18}' for cell in cells)}   {wrongs}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clips = sources(options.half, options.cache, Path(os.environ["FINETUNE_REAL"]))
    make_all(clips)
    report(examine(clips))
