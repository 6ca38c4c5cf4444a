"""Recordings with sound, made by the tests: each half second a frame is white, and a beep begins with it.

The first is frame 5: keyframes, at which parts begin, lie between flashes. After a cut, decoders of sound need a packet
or two until they are heard.
"""

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS, RATE = 20, 48_000  # frames a second, samples a second
FLASH_EVERY, FIRST_FLASH = 10, 5  # frames
BEEP_SECONDS = 0.06


def write_recording(path, *, seconds=4.0, video="libx264", options=None, sounds=("aac",), container_format=None):
    """A recording of 64 x 48 pixels: noise that differs from frame to frame, and flashes with beeps; returns `path`."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=container_format) as output:
        pixels = {"mjpeg": "yuvj420p", "prores": "yuv422p10le"}.get(video, "yuv420p")
        stream = output.add_stream(video, rate=FPS, width=64, height=48, options={"threads": "1"} | (options or {}))
        stream.pix_fmt = pixels
        tracks = [output.add_stream(name, rate=RATE, layout="mono") for name in sounds]
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(_picture(number, rng), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
            for track in tracks:
                output.mux(track.encode(_sound(number)))
        for last in (stream, *tracks):
            output.mux(last.encode(None))
    return path


def _picture(number, rng):
    picture = rng.integers(0, 90, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    picture[8 * (number % 6) : 8 * (number % 6) + 8] += 60
    return 255 - picture // 6 if number % FLASH_EVERY == FIRST_FLASH else picture


def _sound(number):
    samples = np.zeros((1, RATE // FPS), np.float32)
    place = (number - FIRST_FLASH) % FLASH_EVERY * samples.shape[1] + np.arange(samples.shape[1])
    samples[0] = np.where(place < BEEP_SECONDS * RATE, 0.8 * np.sin(2 * np.pi * 1000 * place / RATE), 0)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, number * samples.shape[1], Fraction(1, RATE)
    return frame


def decoded_frames(path):
    """[(seconds, pixels)] of all frames, as FFmpeg outputs them."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray()) for frame in container.decode(video=0)]


def flash_times(path):
    """When white frames are shown, in seconds from the first frame."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    return [time - frames[0][0] for time, brightness in frames if brightness > 210]


def beep_times(path, *, track=0):
    """When beeps begin, in seconds from the first frame."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).time
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE)
        loud, times = [], []
        for frame in container.decode(audio=track):
            for resampled in resampler.resample(frame):
                samples = resampled.to_ndarray()[0]
                loud.append(np.abs(samples) > 0.25)
                times.append(frame.time + np.arange(len(samples)) / RATE)
    loud_at = np.concatenate(times)[np.concatenate(loud)]
    begins = np.diff(loud_at, prepend=-1.0) > 0.1
    return (loud_at[begins] - first).tolist()


def problems_of(path: Path):
    """What FFmpeg complains about while it decodes a whole file; empty for a good one."""
    command = ["ffmpeg", "-v", "error", "-i", f"file:{path}", "-map", "0", "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr
