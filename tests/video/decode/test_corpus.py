"""In all containers, codecs and flags, frame i is frame i with its own time, however the file is read."""

import random
import shutil
import subprocess
from contextlib import suppress
from hashlib import md5

import corpus
import numpy as np
import pytest

from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.video.decode import read
from finetune.video.decode.container import decode_frames, lacks_timestamps, open_video
from finetune.video.decode.probe import frame_times, layout_with_times, scan
from finetune.video.decode.read import RgbConverter, read_frames
from finetune.video.file_facts import FactsCache

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
LEAST_FILES = 120
COUNTED = {"cfhd.mov", "flashsv.flv", "flashsv2.flv", "h264.h264", "h264.nut", "msvideo1.avi", "qtrle.mov"}
COUNTED |= {"roq.roq", "rpza.mov", "smc.mov", "svq1.mov"}
LIKE_FFMPEG = (
    "h264_b",
    "h264_open",
    "h264_inter",
    "h264_vfr",
    "hevc_b",
    "hevc_open",
    "vp8",
    "vp9.",
    "vp9_v",
    "no_ctts",
)
LIKE_FFMPEG += ("spikes", "swapped", "av1_", "ffv1", "huffyuv", "joined.m", "late", "xvid_packed", "mpeg4_b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus.make(folder)
    return folder


@pytest.fixture(scope="module")
def facts(folder):
    """The facts of each readable file, written beside a manifest and read again."""
    scans = {}
    for name in corpus.NAMES:
        if (folder / name).exists():
            with suppress(VideoError):
                scans[name] = scan(folder / name)
    (folder / "clips.csv").write_text("path,label\n" + "".join(f"{name},{len(name) % 2}\n" for name in scans))
    manifest = Manifest.from_csv(folder / "clips.csv")
    row_of = {manifest.path(row).name: row for row in range(len(manifest))}
    FactsCache(manifest.source, manifest.paths).add_scanned({row_of[name]: result for name, result in scans.items()})
    kept = FactsCache(manifest.source, manifest.paths)
    assert not kept.unknown(timed=np.zeros(len(manifest), dtype=bool))
    return {name: (scans[name][0], kept.add_scanned({})[0], row) for name, row in row_of.items()}


def in_order(path):
    """All frames in the order of the decoder's output, uint8 (N, 3, H, W), and their times, NaN where missing."""
    frames, seconds, to_rgb = [], [], RgbConverter(path)
    with open_video(path) as (container, stream):
        for frame in decode_frames(path, container, stream):
            frames.append(np.ascontiguousarray(to_rgb(frame, None)))
            seconds.append(np.nan if frame.time is None or lacks_timestamps(container) else frame.time)
    return np.stack(frames).transpose(0, 3, 1, 2), np.array(seconds)


def orders(count):
    """Several lists of frame indices."""
    rng = random.Random(count)
    yield list(range(count))
    yield rng.sample(range(count), count)
    yield from ([rng.randrange(count)] for _ in range(4))
    yield from (rng.sample(range(count), min(count, 3)) for _ in range(4))
    yield [count - 1, 0, count // 2, 0]


@pytest.mark.slow
def test_the_corpus_is_large(folder):
    assert sum((folder / name).exists() for name in corpus.NAMES) >= LEAST_FILES


@pytest.mark.slow
@pytest.mark.parametrize("name", corpus.NAMES)
def test_frame_i_is_frame_i_at_its_time(folder, facts, name):
    path = folder / name
    if not path.exists():
        pytest.skip("cannot be made here")
    if name not in facts:
        with pytest.raises(VideoError):
            in_order(path)
        return
    info, kept, row = facts[name]
    frames, seconds = in_order(path)
    layout = kept.layout(row)
    assert info.num_frames == kept.num_frames[row] == len(frames)
    for known in (None, layout):
        for wanted in orders(len(frames)):
            found, _ = read_frames(path, wanted, layout=known)
            wrong = (found != frames[wanted]).any(axis=(1, 2, 3))
            assert not wrong.any(), f"wrong: {np.array(wanted)[wrong]}, layout: {known}"
        assert_times_are_those_of_frames(frame_times(path, known), seconds, info)


@pytest.mark.slow
def test_long_files_are_read_without_their_edit_lists_only_where_these_change_nothing(folder, monkeypatch):
    monkeypatch.setattr(read, "LONG_INDEX", 0)
    opened, open_video = [], read.open_video
    monkeypatch.setattr(read, "open_video", lambda path, **how: opened.append(how) or open_video(path, **how))
    without = 0
    for path in sorted(folder.iterdir()):
        if path.suffix in read.MP4_SUFFIXES:
            with suppress(VideoError):
                frames, layout = in_order(path)[0], layout_with_times(path)
                wanted = [len(frames) - 1, 0, len(frames) // 2, len(frames) // 3]
                opened.clear()
                found, _ = read_frames(path, wanted, layout=layout)
                assert (found == frames[wanted]).all(), path
                without += len(opened) == 1 and opened[0].get("edit_lists") is False
    assert without > 20


def assert_times_are_those_of_frames(times, seconds, info):
    assert len(times) == info.num_frames
    assert (np.diff(times) >= 0).all()
    assert np.ptp(times) <= info.duration_seconds <= 1.5 * np.ptp(times) + 0.1
    if np.isfinite(seconds).all() and np.ptp(seconds) < 1000 and (np.diff(seconds) >= 0).all():
        np.testing.assert_allclose(times, seconds, atol=1e-6)


@pytest.mark.slow
def test_frames_are_found_and_not_counted_wherever_a_file_can_be_entered(facts):
    """Of what ffmpeg encodes, but for codecs that say no keyframes, or packets that have no time to go back to."""
    counted = {name for name, (_, kept, row) in facts.items() if (layout := kept.layout(row)) and not layout.has_groups}
    assert counted & corpus.ENCODED.keys() <= COUNTED
    assert len(counted) < len(facts) / 5


@pytest.mark.slow
def test_decoding_in_order_gives_what_the_ffmpeg_program_decodes(folder):
    """Bit for bit, by another build of the decoders: every frame of a part of the corpus."""
    names = [name for name in corpus.NAMES if name.startswith(LIKE_FFMPEG) and (folder / name).exists()]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    for name in names:
        command += ["-i", name]
    for number, name in enumerate(names):
        options = ["-fps_mode", "passthrough", "-f", "framemd5"]
        command += ["-map", f"{number}:v:0", *options, f"{name}.md5"]
    subprocess.run(command, cwd=folder, check=True)
    for name in names:
        lines = [line for line in (folder / f"{name}.md5").read_text().splitlines() if line[0] != "#"]
        with open_video(folder / name) as (container, stream):
            frames = [
                md5(frame.to_ndarray().tobytes()).hexdigest() for frame in decode_frames(folder, container, stream)
            ]
        assert [line.split()[-1] for line in lines] == frames, name
