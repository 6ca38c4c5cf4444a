"""Clips that a person could tell apart: each seed is another scene, whose pattern drifts from frame to frame."""

import ctypes
import time
from pathlib import Path

import numpy as np

from finetune.video.encode import write_video


def scene(seed, count=6, *, height=48, width=64):
    """uint8 (T, height, width, 3): blotches of random colours, which move by a pixel a frame."""
    random = np.random.default_rng(seed)
    blotches = random.integers(0, 256, (height // 8, width // 8 + 2, 3)).astype(np.uint8)
    whole = blotches.repeat(8, 0).repeat(8, 1)
    return np.stack([whole[:, number : number + width] for number in range(min(count, 16))])


def make_scene(path, seed, count=6, *, fps=25, mirrored=False, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = scene(seed, count, **size)
    write_video(path, frames[:, :, ::-1] if mirrored else frames, fps=fps)
    return path


def make_bad_files(folder):
    """One file of each kind that cannot be read: name to what has to be said of it."""
    import av

    whole = make_scene(folder / "whole.mp4", 99, 16)
    data = whole.read_bytes()
    whole.unlink()
    contents = {
        "empty.mp4": (b"", "is empty (0 bytes)"),
        "pointer.mp4": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git-LFS pointer"),
        "cut off.mp4": (data[: len(data) // 2], "cut off"),
        "text.mp4": (b"This is no video at all.\n" * 40, "is not a video, or is cut off"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    return {name: words for name, (_, words) in contents.items()} | {"sound.mp4": "holds only audio"}


class CrashingPath(type(Path())):
    """A file that crashes the process which it is sent to, by reading where there is no memory."""

    def __reduce__(self):
        return ctypes.string_at, (0,)


class HangingPath(type(Path())):
    """A file that keeps the process which it is sent to waiting."""

    def __reduce__(self):
        return time.sleep, (600,)
