"""The clips that benchmarks read: a textured scene that moves, with grain, in the codecs and layouts people have."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SMALL, FULL_HD = (256, 340), (1080, 1920)  # (height, width) in pixels
FPS = 25
MINUTES = 60


@dataclass(frozen=True)
class Kind:
    """A file to be made. `options` are the encoder's."""

    file: str
    encoder: str
    options: dict[str, str]
    size: tuple[int, int] = SMALL
    num_frames: int = 280


@dataclass(frozen=True)
class Clip:
    """A file to be read at `side` pixels a short side; `repeats` is the file that it holds again and again."""

    name: str
    path: Path
    side: int = 224
    repeats: Path | None = None


def _x264(parameters: str, *, crf: int = 23) -> dict[str, str]:
    return {"preset": "veryfast", "crf": str(crf), "x264-params": parameters}


# x264 itself takes 3 B-frames, as a pyramid, and a keyframe every 250 frames.
KINDS = {
    "H.264, no B": Kind("no_b.mp4", "libx264", _x264("bframes=0:keyint=50")),
    "H.264, 3 B": Kind("b3.mp4", "libx264", _x264("bframes=3:keyint=50")),
    "H.264, 8 B": Kind("b8.mp4", "libx264", _x264("bframes=8:b-adapt=0:keyint=50")),
    "H.264, 3 B, GOP 250": Kind("gop250.mp4", "libx264", _x264("bframes=3:keyint=250")),
    "H.264, 3 B, one GOP": Kind("one_gop.mp4", "libx264", _x264("bframes=3:keyint=infinite")),
    "H.264, 3 B, 1080p": Kind("1080p.mp4", "libx264", _x264("bframes=3:keyint=250"), FULL_HD, 150),
    "H.264, 3 B, 1080p, GOP 30": Kind("1080p_30.mp4", "libx264", _x264("bframes=3:keyint=30"), FULL_HD, 150),
    "MPEG-4, 2 B, AVI": Kind("xvid.avi", "mpeg4", {"bf": "2", "g": "100", "b": "800k"}),
    "HEVC": Kind("hevc.mp4", "libx265", {"preset": "veryfast", "x265-params": "log-level=none:pools=2"}),
    "VP9, WebM": Kind("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "6", "crf": "35", "b": "0"}),
    "AV1": Kind("av1.mp4", "libsvtav1", {"preset": "10", "crf": "40", "svtav1-params": "lp=2"}),
    "AV1, MKV": Kind("av1.mkv", "libsvtav1", {"preset": "10", "crf": "40", "svtav1-params": "lp=2"}),
}
B_FRAMES = [name for name in KINDS if " B" in name and name.startswith("H.264") and "no B" not in name]
MINUTE = Kind("minute.mp4", "libx264", _x264("bframes=3:keyint=250", crf=28), num_frames=60 * FPS)
HOURS = {"an hour, MP4": "hour.mp4", "an hour, MKV": "hour.mkv"}
REAL = {
    "real: cockatoo": "data/odd/imageio-imageio-binaries__cockatoo.mp4",
    "real: cockatoo_yuv420": "data/odd/imageio-imageio-binaries__cockatoo_yuv420.mp4",
    "real: pancake, MKV": "data/odd/dmlc-decord__flipping_a_pancake.mkv",
    "real: nasa": "data/odd/pytorch-torchcodec__nasa_13013.mp4",
    "real: UT interaction, AVI": "data/ut_interaction/hugging/*.avi",
    "real: yoga": "data/yoga_poses/bhujangasan/*.mp4",
}


def clips(folder: Path) -> list[Clip]:
    """All clips; those that are not in the folder yet are made, in about two minutes. Real ones need FINETUNE_REAL."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [Clip(name, make(folder, kind), 256 if kind.size == FULL_HD else 224) for name, kind in KINDS.items()]
    minute = make(folder, MINUTE)
    for name, file in HOURS.items():
        made.append(Clip(name, repeat(minute, folder / file, MINUTES), repeats=minute))
    if real := os.environ.get("FINETUNE_REAL"):
        made += [Clip(name, sorted(Path(real).glob(pattern))[0]) for name, pattern in REAL.items()]
    return made


def make(folder: Path, kind: Kind) -> Path:
    """The file of a kind, made if it is not there."""
    return _once(folder / kind.file, lambda path: _encode(kind, path))


def scene(size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3): a camera that pans over a texture with as much detail as photographs have, and four things
    that move across it, under grain that is another in each frame."""
    height, width = size
    rng = np.random.default_rng(0)
    canvas = _texture(rng, height + 48, width * 2)
    patch = _texture(rng, height // 3, height // 3)
    grain = rng.normal(0, 2.5, (height + 64, width + 64, 1)).astype(np.float32)
    for number in range(count):
        pan = round(width / 2 * (1 - np.cos(number / 60)))
        tilt = round(24 + 24 * np.sin(number / 25))
        picture = canvas[tilt : tilt + height, pan : pan + width].copy()
        for thing in range(4):
            angle = number * (0.02 + 0.015 * thing) + thing
            top = round((height - len(patch)) / 2 * (1 + np.sin(angle)))
            left = round((width - len(patch)) / 2 * (1 + np.cos(1.3 * angle)))
            picture[top : top + len(patch), left : left + len(patch)] = np.roll(patch, 17 * thing, axis=(0, 2))
        down, right = rng.integers(0, 64, 2)
        yield np.clip(picture + grain[down : down + height, right : right + width], 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """float32 (H, W, 3), 0 to 255: noise whose amplitude falls with frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency**1.3
    spectrum[:, 0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(height, width)).transpose(1, 2, 0)
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.float32)


def _encode(kind: Kind, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.encoder, rate=FPS, options=kind.options)
        stream.height, stream.width = kind.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        os.environ.setdefault("SVT_LOG", "1")  # errors only
        stream.thread_count = 1  # with more, PyAV has x264 cut each frame into slices
        if kind.file.endswith(".avi"):
            stream.codec_context.codec_tag = "XVID"
        for picture_HWC in scene(kind.size, kind.num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode(None))


def repeat(minute: Path, path: Path, minutes: int) -> Path:
    """The file `path` with the packets of a file over and over, each time a minute later; made if it is not there."""
    return _once(path, lambda unfinished: _repeat(minute, unfinished, minutes))


def _repeat(minute: Path, path: Path, minutes: int) -> None:
    with av.open(str(minute)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number in range(minutes):
            source.seek(0)
            for packet in source.demux(video=0):
                if packet.size:
                    later = round(60 * number / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, stream
                    container.mux(packet)


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        unfinished = path.with_name(f"unfinished_{path.name}")
        write(unfinished)
        unfinished.replace(path)
    return path
