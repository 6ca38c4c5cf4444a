"""Cut parts out of a video and join them: packets are copied where keyframes allow it, else frames are encoded."""

import errno
import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet

from finetune.errors import RunError, VideoError
from finetune.storage.atomic import atomic_file
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.video.cut.compare_frames import shows_same_frames
from finetune.video.cut.copied_frames import copied_packets
from finetune.video.cut.encoded_frames import encoded_packets
from finetune.video.cut.plan import Span, exact_spans, keyframe_spans
from finetune.video.cut.sound import copied_sound, encoded_sound, longest_packet
from finetune.video.decode.clip_files import list_sequence_images
from finetune.video.decode.container import FILE_PREFIX, PYAV_ERRORS, error_text, open_video, start_of_file
from finetune.video.decode.gop import GopLayout
from finetune.video.decode.probe import layout_with_times
from finetune.video.decode.sparse import LayoutError

MAX_LONGER = 0.2  # a copy, whose parts begin at keyframes, may be longer than the parts by this share
FORMATS = {".mp4": "mp4", ".webm": "webm", ".mkv": "matroska"}
MP4_VIDEO = {"h264", "hevc", "av1", "mpeg4"}
WEBM_VIDEO = {"vp8", "vp9", "av1"}
SOUND = {".mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}, ".webm": {"opus", "vorbis"}}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CutVideo:
    """A video that was written, and its length in seconds.

    Where it `is_copy`, parts begin at keyframes, and it is `longer` seconds longer than they are. Else `reason` says
    why frames were encoded.
    """

    path: Path
    seconds: float
    is_copy: bool
    longer: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class _Source:
    """A video, when its frames are shown in seconds from its beginning, and what it holds."""

    path: Path
    layout: GopLayout | None
    times_N: np.ndarray
    codec: str = ""
    sounds: tuple[tuple[str, float], ...] = ()  # codec and seconds of a packet of each stream


def cut_video(
    source: Path,
    parts: Sequence[tuple[float, float]],
    stem: Path,
    *,
    exact: bool = False,
    image_rate: float = DEFAULT_IMAGE_FPS,
    progress: Progress = lambda done, total: None,
) -> CutVideo:
    """Write the parts, (start, end) in seconds, of a video or a folder of numbered images to `stem` with a suffix.

    With `exact`, frames are encoded even where packets could be copied. `image_rate` is that of numbered images, which
    have none, in images per second. `progress` is called with frames done and in
    all. An existing file is replaced once the new one is complete. Raises VideoError where the source cannot be read or
    the parts hold no frame, and RunError where the result cannot be written.
    """
    known = _open_source(source, image_rate)
    spans = exact_spans(known.times_N, parts)
    if not spans:
        raise VideoError(f"{source}: the parts of its summary hold no frame")
    copied = None if exact or known.layout is None else keyframe_spans(known.layout, known.times_N, spans)
    reason = "exact cuts were asked for" if exact else "its packets cannot be copied one by one"
    if copied is not None:
        longer = _seconds(copied) - _seconds(spans)
        reason = f"keyframes are far apart, and a copy would be {longer:.1f} s longer"
        if longer <= MAX_LONGER * _seconds(spans):
            path = _copy(known, copied, stem, progress)
            if path is not None:
                return CutVideo(path, _seconds(copied), True, longer=longer)
            reason = "a copy of its packets does not decode to the same frames"
    return CutVideo(_encode(known, spans, stem, progress), _seconds(spans), False, reason=reason)


def _seconds(spans: Sequence[Span]) -> float:
    return sum(span.seconds for span in spans)


def _open_source(path: Path, image_rate: float) -> _Source:
    if path.is_dir():
        return _Source(path, None, np.arange(len(list_sequence_images(path))) / image_rate)
    layout = layout_with_times(path)
    assert layout.times is not None
    with open_video(path) as (container, stream):
        codec, start = stream.codec_context.codec.canonical_name, start_of_file(container)
        names = [sound.codec_context and sound.codec_context.codec.canonical_name for sound in container.streams.audio]
    sounds = []
    for number, name in enumerate(names):
        with open_video(path) as (container, _):
            sounds.append((name or "", longest_packet(container, container.streams.audio[number]) if name else 0.0))
    return _Source(path, layout, layout.times - start, codec, tuple(sounds))


def _copy(source: _Source, spans: Sequence[Span], stem: Path, progress: Progress) -> Path | None:
    """The file that was written; None where a copy cannot be written or shows other frames."""
    layout, suffix = source.layout, _suffix(source)
    assert layout is not None
    path = stem.with_name(stem.name + suffix)
    try:
        with _plain_disk_errors(path), atomic_file(path) as partial:
            with _output(partial, suffix) as output:
                with open_video(source.path) as (_, stream):
                    target = output.add_stream_from_template(stream, opaque=True)
                frames = copied_packets(source.path, layout, source.times_N, spans, target)
                _mux(output, [frames, *_sounds(source, spans, suffix, output)])
            if not shows_same_frames(partial, source.path, spans, layout, source.times_N, progress=progress):
                raise LayoutError("the copy shows other frames")
    except (LayoutError, *PYAV_ERRORS):
        return None
    return path


def _encode(source: _Source, spans: Sequence[Span], stem: Path, progress: Progress) -> Path:
    path = stem.with_name(f"{stem.name}.mp4")
    total = sum(span.end_frame - span.first for span in spans)
    try:
        with _plain_disk_errors(path), atomic_file(path) as partial, _output(partial, ".mp4") as output:
            frames = encoded_packets(source.path, source.layout, source.times_N, spans, output)
            shown = _count_packets(frames, total, progress)
            _mux(output, [shown, *_sounds(source, spans, ".mp4", output)])
    except PYAV_ERRORS as error:
        raise RunError(f"{path}: cannot be written: {error_text(error)}") from None
    return path


def _suffix(source: _Source) -> str:
    """The suffix of a container that holds the source's video without a change."""
    if source.codec in MP4_VIDEO:
        return ".mp4"
    is_webm = source.codec in WEBM_VIDEO and all(name in SOUND[".webm"] for name, _ in source.sounds)
    return ".webm" if is_webm else ".mkv"


@contextmanager
def _plain_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def _output(path: Path, suffix: str) -> OutputContainer:
    return av.open(f"{FILE_PREFIX}{path}", "w", format=FORMATS[suffix])


def _sounds(source: _Source, spans: Sequence[Span], suffix: str, output: OutputContainer) -> list[Iterator[Packet]]:
    """The packets of each sound stream: copied where the container holds them and they are shorter than two frames."""
    gaps = np.diff(source.times_N)
    frame_seconds = float(np.median(gaps)) if len(gaps) else 0.04
    streams = []
    for number, (codec, seconds) in enumerate(source.sounds):
        fits = suffix not in SOUND or codec in SOUND[suffix]
        if fits and 0 < seconds < 2 * frame_seconds:
            streams.append(copied_sound(source.path, number, spans, output))
        elif codec:
            streams.append(encoded_sound(source.path, number, spans, output))
    return streams


def _mux(output: OutputContainer, streams: Sequence[Iterator[Packet]]) -> None:
    for packet in heapq.merge(*streams, key=_seconds_of):
        output.mux(packet)


def _seconds_of(packet: Packet) -> float:
    return float(packet.dts * packet.time_base) if packet.dts is not None and packet.time_base is not None else 0.0


def _count_packets(packets: Iterator[Packet], total: int, progress: Progress) -> Iterator[Packet]:
    for done, packet in enumerate(packets, 1):
        yield packet
        progress(done, total)
