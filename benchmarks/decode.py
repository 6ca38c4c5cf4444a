"""What eight frames of a file cost, against the other decoders: CPU time in turn on every file, and memory.

All give the middles of eight equal parts at the same size, open the file anew, and decode in one thread. A decoder
that gives another frame than the one asked for (told by all frames of the file in a row) does not count as best.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from clips import B_FRAMES, HOURS, Clip, clips

from finetune.recipe.schema import Clip as Sampling
from finetune.video.augment import scaled_size
from finetune.video.decode.probe import probe, scan
from finetune.video.decode.read import read_frames
from finetune.video.sampling import sample_indices

OURS = ("ours", "scanned")
REPEATED_BELOW = 2  # what takes longer than this many times the fastest is measured once
THUMB = (64, 64)
Read = Callable[[Path, list[int], tuple[int, int]], np.ndarray]


def main() -> None:
    """Print the table, what it comes to, and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "finetune-benchmark-clips")
    parser.add_argument("--only", help="files whose name contains this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # quiet: what cannot be read is in the remarks
    if options.peak:
        method, path = options.peak
        print(peak_growth_megabytes(method, Path(path)))
        return
    chosen = [clip for clip in clips(options.cache) if not options.only or options.only in clip.name]
    print("CPU ms for 8 frames; * gives wrong frames; ratios are to the best other decoder whose frames are right")
    print(f"{'':27}" + "".join(f"{name:>9}" for name in METHODS) + f"{'ratio':>9}{'scanned':>9}")
    ratios, remarks = {}, []
    for clip in chosen:
        ratios[clip.name] = compare(clip, options.repeats, remarks)
    print("\n".join(sorted(set(remarks))))
    print_targets(ratios)
    if not options.only:
        print_memory(options.cache)


def compare(clip: Clip, repeats: int, remarks: list[str]) -> float:
    """Measure all methods on a file in turn, print its line, and give our time ÷ the best other's."""
    info, layout = scan(clip.path)
    indices = sample_indices(Sampling(num_frames=8), info.num_frames)
    size = scaled_size((info.height, info.width), clip.side, fit="crop")
    methods = dict(METHODS) | {"scanned": partial(ours, layout=layout)}
    if clip.repeats:  # all of an hour in a row is no candidate
        methods = {name: read for name, read in methods.items() if name not in IN_A_ROW}
    thumbs = all_thumbs(clip.repeats or clip.path)
    reads = {name: partial(read, clip.path, indices, size) for name, read in methods.items()}
    right = {}
    for name, read in reads.items():
        try:
            offsets = frames_off(read(), indices, thumbs)
        except Exception as error:  # of any library
            remarks.append(f"– {clip.name}: {name}: {str(error).strip().splitlines()[0][:150]}")
            continue
        right[name] = not any(offsets)
        if not right[name]:
            remarks.append(f"* {clip.name}: {name}: off by {offsets} frames")
    taken = in_turn({name: reads[name] for name in right}, repeats)
    medians = {name: 1000 * statistics.median(times) for name, times in taken.items()}
    best = min(time for name, time in medians.items() if right[name] and name not in OURS)
    cells = [f"{medians[name]:.1f}{'*' * (not right[name])}" if name in medians else "–" for name in METHODS]
    ours_by_best, scanned_by_best = medians["ours"] / best, medians["scanned"] / best
    row = [*cells, f"{ours_by_best:.2f}", f"{scanned_by_best:.2f}"]
    print(f"{clip.name:27}" + "".join(f"{cell:>9}" for cell in row), flush=True)
    return ours_by_best


def in_turn(reads: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each, one after the other and then again, less those that are far from the fastest."""
    taken: dict[str, list[float]] = {name: [] for name in reads}
    for turn in range(repeats):
        fastest = min((times[0] for times in taken.values() if times), default=0)
        for name, read in reads.items():
            if turn == 0 or name in OURS or taken[name][0] < REPEATED_BELOW * fastest:
                before = _used()
                read()
                taken[name].append(_used() - before)
    return taken


def _used() -> float:
    """CPU seconds of this process with all its threads, and of processes that it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def ours(path: Path, indices: list[int], size: tuple[int, int], **known) -> np.ndarray:
    return read_frames(path, indices, size=size, **known)[0].transpose(0, 2, 3, 1)


def opencv_in_a_row(path: Path, indices: list[int], size: tuple[int, int]) -> np.ndarray:
    capture, frames = _capture(path), []
    for number in range(indices[-1] + 1):
        assert capture.grab(), f"no frame {number}"
        if number in indices:
            frames.append(_resized(capture.retrieve()[1], size))
    return np.stack(frames)[..., ::-1]


def opencv_seeking(path: Path, indices: list[int], size: tuple[int, int]) -> np.ndarray:
    capture, frames = _capture(path), []
    for number in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        there, picture = capture.read()
        assert there, f"no frame {number}"
        frames.append(_resized(picture, size))
    return np.stack(frames)[..., ::-1]


def _capture(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    assert capture.isOpened(), "cannot be opened"
    return capture


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(picture, size[::-1])  # OpenCV's default, which is its fastest, and does not average


def pyav_in_a_row(path: Path, indices: list[int], size: tuple[int, int], *, reformat: bool) -> np.ndarray:
    frames = []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in indices and reformat:
                frames.append(frame.to_ndarray(format="rgb24", height=size[0], width=size[1], threads=1))
            elif number in indices:
                frames.append(_resized(frame.to_ndarray(format="rgb24", threads=1), size))
            if number == indices[-1]:
                break
    return np.stack(frames)


def torchcodec(path: Path, indices: list[int], size: tuple[int, int], *, mode: str, resize: bool) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    transforms = [Resize(size)] if resize else []
    decoder = VideoDecoder(path, stream_index=0, num_ffmpeg_threads=1, seek_mode=mode, transforms=transforms)
    frames_TCHW = decoder.get_frames_at(indices).data
    if not resize:
        frames_TCHW = torch.nn.functional.interpolate(frames_TCHW, size, mode="bilinear", antialias=True)
    return frames_TCHW.permute(0, 2, 3, 1).numpy()


def decord(path: Path, indices: list[int], size: tuple[int, int]) -> np.ndarray:
    from decord import VideoReader, cpu

    reader = VideoReader(str(path), ctx=cpu(0), num_threads=1, height=size[0], width=size[1])
    return reader.get_batch(indices).asnumpy()


# scanned: ours with the layout that `scan` found before. cv: OpenCV, av: PyAV, tc: torchcodec. row: all frames in a
# row; fmt: scaled while converted; ex(act) and appr(oximate): how it finds frames, both with its own Resize; +F:
# resized by torch.
METHODS: dict[str, Read] = {
    "ours": ours,
    "scanned": ours,
    "cv row": opencv_in_a_row,
    "cv seek": opencv_seeking,
    "av row": partial(pyav_in_a_row, reformat=False),
    "av fmt": partial(pyav_in_a_row, reformat=True),
    "tc exact": partial(torchcodec, mode="exact", resize=True),
    "tc appr": partial(torchcodec, mode="approximate", resize=True),
    "tc ex+F": partial(torchcodec, mode="exact", resize=False),
    "decord": decord,
}
IN_A_ROW = ("cv row", "av row", "av fmt")


def all_thumbs(path: Path) -> np.ndarray:
    """Small grey pictures of all frames in a row (N, h, w), less their mean: what frames are told by."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([_thumb(frame.to_ndarray(format="rgb24", height=128, width=128)) for frame in frames])


def _thumb(picture: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(cv2.resize(picture, THUMB, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return (grey - grey.mean()).astype(np.float32)


def frames_off(frames: np.ndarray, indices: list[int], thumbs: np.ndarray) -> list[int]:
    """By how many frames each is off, 0 where the one asked for is as like it as any (of a file that repeats)."""
    offsets = []
    for picture, index in zip(frames, indices, strict=True):
        index %= len(thumbs)
        unlike = np.abs(thumbs - _thumb(np.ascontiguousarray(picture))).mean(axis=(1, 2))
        nearest = int(unlike.argmin())
        offsets.append(0 if unlike[index] <= unlike[nearest] + 0.25 else nearest - index)
    return offsets


def print_targets(ratios: dict[str, float]) -> None:
    """What the ratios come to, against what was wanted."""
    b_frames = [ratios[name] for name in B_FRAMES if name in ratios]
    worst = max(ratios, key=ratios.__getitem__)
    full_hd = {name: ratio for name, ratio in ratios.items() if "1080p" in name}
    print(f"{_met(ratios[worst], 1.10)} worst: {worst}")
    if b_frames:
        print(f"{_met(statistics.geometric_mean(b_frames), 0.80)} geometric mean over H.264 with B-frames")
    for name, ratio in full_hd.items():
        print(f"{_met(ratio, 0.70)} {name}")


def _met(value: float, limit: float) -> str:
    return f"{value:5.2f} (wanted: {limit:.2f} at most, {'met' if value <= limit else 'missed'})"


def print_memory(cache: Path) -> None:
    """Peak memory of 8 frames of an hour and of 11 seconds, each in a process of its own."""
    print("peak memory, growth in MB from what is in use before: eleven seconds, then an hour")
    files = [cache / "gop250.mp4", *(cache / file for file in HOURS.values())]
    for name in METHODS:
        if name in IN_A_ROW or name == "scanned":
            continue
        grown = [
            subprocess.run([sys.executable, __file__, "--peak", name, str(path)], capture_output=True, text=True).stdout
            for path in files
        ]
        print(f"{name:9}" + "".join(f"{megabytes.strip() or '–':>9}" for megabytes in grown))


def peak_growth_megabytes(method: str, path: Path) -> float:
    """By how much the most memory in use has grown while a method read, once it had read another file."""
    length = probe(path).num_frames
    other = path.parent / "no_b.mp4"
    METHODS[method](other, [1, 2], (224, 298))
    before = _status_kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    METHODS[method](path, sample_indices(Sampling(num_frames=8), length), (224, 298))
    return round((_status_kilobytes("VmHWM") - before) / 1024, 1)


def _status_kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main()
