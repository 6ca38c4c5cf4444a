"""Clips with texture that moves, in many codecs and containers: every frame differs from every other."""

from fractions import Fraction

import av
import numpy as np

B_FRAMES = {"bf": "3", "g": "12", "b_strategy": "0", "sc_threshold": "0"}
# name: (file, encoder, its options, options of the container)
KINDS = {
    "h264": ("a.mp4", "libx264", {"x264-params": "bframes=0:keyint=12:scenecut=0"}, {}),
    "h264_b": ("a.mp4", "libx264", {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:keyint=12:scenecut=0"}, {}),
    "h264_open": ("a.mp4", "libx264", {"x264-params": "bframes=3:b-adapt=0:open-gop=1:keyint=10:scenecut=0"}, {}),
    "h264_refresh": ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=10"}, {}),
    "h264_444": ("a.mp4", "libx264", {"x264-params": "keyint=10", "profile": "high444"}, {}),
    "h264_fragments": (
        "a.mp4",
        "libx264",
        {"x264-params": "bframes=3:keyint=12"},
        {"movflags": "frag_keyframe+empty_moov"},
    ),
    "h264_mkv": ("a.mkv", "libx264", {"x264-params": "bframes=3:open-gop=1:keyint=10"}, {}),
    "h264_interlaced": ("a.mov", "libx264", {"x264-params": "tff=1:bframes=2:keyint=12"}, {}),
    "h264_ts": ("a.ts", "libx264", {"x264-params": "bframes=3:keyint=12"}, {}),
    "h264_flv": ("a.flv", "libx264", {"x264-params": "bframes=3:keyint=12"}, {}),
    "h264_avi": ("a.avi", "libx264", {"x264-params": "bframes=3:keyint=12"}, {}),
    "hevc": ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=10:bframes=4:open-gop=1"}, {}),
    "hevc_layers": ("a.mkv", "libx265", {"x265-params": "log-level=none:keyint=12:bframes=3:temporal-layers=2"}, {}),
    "vp9": (
        "a.webm",
        "libvpx-vp9",
        {"g": "10", "auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime"},
        {},
    ),
    "av1": ("a.mkv", "libsvtav1", {"preset": "12", "g": "10", "svtav1-params": "hierarchical-levels=3"}, {}),
    "mpeg4_avi": ("a.avi", "mpeg4", {"bf": "2", "g": "12"}, {}),
    "mpeg4_mp4": ("a.mp4", "mpeg4", {"bf": "2", "g": "12"}, {}),
    "mpeg2_mpg": ("a.mpg", "mpeg2video", {"bf": "2", "g": "12"}, {}),
    "mjpeg_avi": ("a.avi", "mjpeg", {}, {}),
    "gif": ("a.gif", "gif", {}, {}),
}


def texture(count, *, height=48, width=64):
    """uint8 (T, H, W, 3): smooth noise that drifts, another picture in every frame."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (height + 2 * count, width + 2 * count, 3)).astype(float)
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-3, 4)) / 7
    noise = np.clip((noise - 128) * 5 + 128, 0, 255).astype(np.uint8)
    return np.stack([noise[n : n + height, 2 * n : 2 * n + width] for n in range(count)])


def write(folder, kind, count):
    """Encode `count` frames of texture; the path."""
    name, encoder, options, container_options = KINDS[kind]
    formats = {"mjpeg": "yuvj420p", "gif": "rgb8", "h264_444": "yuv444p"}
    path = folder / name
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = formats.get(kind, formats.get(encoder, "yuv420p"))
        stream.codec_context.time_base = Fraction(1, 25)
        stream.thread_count = 1
        for frame_HWC in texture(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def in_order(path):
    """Every frame as PyAV hands them out, uint8 (N, 3, H, W)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def write_lossless(path, frames_THWC):
    """Write RGB frames without loss of colour resolution."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
