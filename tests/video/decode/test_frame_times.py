"""The right frame at its own time, in files with missing or wrong timestamps and indexes."""

import shlex
import shutil
import subprocess

import numpy as np
import pytest
from grey import make_clip
from hypothesis import given
from hypothesis import strategies as st

from finetune.recipe.schema import Clip
from finetune.video.decode.container import decode_frames, open_video
from finetune.video.decode.gop import monotonic_times
from finetune.video.decode.probe import frame_times, probe, scan
from finetune.video.decode.read import read_frames
from finetune.video.sampling import MICROSECONDS_PER_SECOND, sample_indices

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
SOURCE = "-f lavfi -i testsrc2=s=320x240:r=30:d=4"
# GIF has hundredths of a second; libtheora shows the picture that is missing first once more.
ONLY = {"v.gif": [7, 22, 29, 29, 29, 29, 36, 51], "v.ogv": [8, 23, 30, 30, 30, 30, 37, 52]}
CUT_OUT = "-vf select='not(between(t\\,1\\,3))' -fps_mode vfr"


def ffmpeg(folder, *commands):
    for command in commands:
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *shlex.split(command)], cwd=folder, check=True)


def in_order(path):
    with open_video(path) as (container, stream):
        frames = [frame.to_ndarray(format="rgb24") for frame in decode_frames(path, container, stream)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def number_wrong(path, *, layout, step=1):
    """(wrong frames, frames): every `step`-th frame is read by itself and compared."""
    frames = in_order(path)
    wrong = sum((read_frames(path, [n], layout=layout)[0] != frames[n]).any() for n in range(0, len(frames), step))
    return wrong, len(frames)


@needs_ffmpeg
def test_no_frame_of_a_packed_bitstream_is_wrong(tmp_path):
    """A keyframe's packet also holds the picture before it, which is output with the next packet."""
    ffmpeg(tmp_path, f"{SOURCE} -c:v libxvid -bf 2 -g 30 -qscale:v 4 a.avi")
    layout = scan(tmp_path / "a.avi")[1]
    assert layout.has_groups and not layout.one_frame_per_packet
    assert number_wrong(tmp_path / "a.avi", layout=layout) == (0, 118)  # 79 were


@needs_ffmpeg
@pytest.mark.parametrize("name", ["b.mkv", "b.mp4", "spikes.mkv"])
def test_no_frame_is_wrong_where_timestamps_are_in_another_order(tmp_path, name):
    base, times = {
        "b.mkv": ("-bf 2", "pts=DTS"),
        "b.mp4": ("-bf 2", "pts=DTS"),
        "spikes.mkv": ("-bf 0", "pts='PTS+if(eq(mod(N\\,11)\\,4)\\,3*512\\,0)'"),
    }[name]
    ffmpeg(
        tmp_path,
        f"{SOURCE} -c:v libx264 -preset ultrafast {base} -g 30 base.mp4",
        f"-i base.mp4 -an -c copy -bsf:v setts={times} {name}",
    )
    path = tmp_path / name
    info, layout = scan(path)
    assert (info.counted, info.reliable_timestamps) == ("decoded", False)
    for known in (None, layout):
        wrong, count = number_wrong(path, layout=known, step=5)
        assert wrong == 0 and len(frame_times(path, known)) == count  # 108 and 116 of 120 were


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.webm", "libvpx -deadline realtime -cpu-used 16 -threads 1"),
        ("v.mp4", "mpeg4"),
        ("v.mov", "mjpeg"),
        ("v.ts", "libx264 -preset ultrafast"),
        ("v.flv", "flv"),
        ("v.wmv", "wmv2"),
        ("v.gif", "gif"),
        ("v.3gp", "mpeg4"),
        ("v.ogv", "libtheora"),
        ("v.mkv", "libx264 -preset ultrafast"),
    ],
)
def test_fps_sampling_takes_frames_at_their_true_times(tmp_path, name, codec):
    """Between 1 and 3 s there is no new frame: the last one stays displayed."""
    ffmpeg(tmp_path, f"{SOURCE} {CUT_OUT} -c:v {codec} {name}")
    path = tmp_path / name
    info, layout = scan(path)
    for known in (None, layout):
        times = np.rint(frame_times(path, known) * MICROSECONDS_PER_SECOND).astype(np.int64).tolist()
        indices = sample_indices(Clip(num_frames=8, sampling="fps", fps=2, size=32), info.num_frames, times=times)
        assert indices == ONLY.get(name, [8, 23, 29, 29, 29, 29, 37, 52])
    assert info.duration_seconds == pytest.approx(4, abs=0.05)


@needs_ffmpeg
def test_a_file_that_begins_without_a_keyframe_has_a_time_for_each_frame_and_no_more(tmp_path):
    ffmpeg(
        tmp_path,
        f"{SOURCE} -c:v libx264 -preset ultrafast -bf 0 -g 30 base.mp4",
        "-i base.mp4 -ss 0.4 -c copy -copyinkf late.mkv",
    )
    info, layout = scan(tmp_path / "late.mkv")
    assert info.num_frames == 90  # of 108 packets
    for known in (None, layout):
        times = frame_times(tmp_path / "late.mkv", known)
        np.testing.assert_allclose(times, times[0] + np.arange(90) / 30, atol=2e-3)
        read_frames(tmp_path / "late.mkv", [89], layout=known)


@needs_ffmpeg
def test_dv_does_not_have_60000_frames_a_second(tmp_path):
    ffmpeg(tmp_path, "-f lavfi -i testsrc2=s=720x576:r=25:d=0.4 -c:v dvvideo -pix_fmt yuv420p a.dv")
    info = probe(tmp_path / "a.dv")
    assert (info.num_frames, info.fps) == (10, 25)
    assert info.duration_seconds == pytest.approx(0.4)


def test_a_single_frame_lasts_as_long_as_its_rate_says(tmp_path):
    assert probe(make_clip(tmp_path / "one.mp4", 1)).duration_seconds == pytest.approx(1 / 25)


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_time_that_no_clock_shows_is_one_that_is_missing(tmp_path, codec):
    later = "+if(gte(N\\,20)\\,4e15\\,0)"
    ffmpeg(
        tmp_path,
        f"-f lavfi -i testsrc2=s=64x48:r=25:d=1.2 -c:v {codec} -bf 0 -g 10 a.mkv",
        f"-i a.mkv -c copy -bsf:v 'setts=pts=PTS{later}:dts=DTS{later}' b.mkv",
    )
    times = frame_times(tmp_path / "b.mkv")
    assert len(times) == 30
    np.testing.assert_allclose(times, np.arange(30) / 25, atol=0.002)
    assert probe(tmp_path / "b.mkv").duration_seconds == pytest.approx(1.2, abs=0.01)


@given(
    seconds=st.lists(st.one_of(st.floats(-1e5, 1e5), st.just(float("nan"))), min_size=1, max_size=60),
    rate=st.sampled_from([0.0, 25.0, 60.0]),
)
def test_times_never_fall_and_there_is_one_for_each_frame(seconds, rate):
    times = monotonic_times(np.array(seconds), rate)
    assert len(times) == len(seconds)
    assert np.isfinite(times).all()
    assert (np.diff(times) >= 0).all()


def test_times_that_rise_stay_as_they_are():
    seconds = np.cumsum(np.random.default_rng(3).random(50))
    np.testing.assert_array_equal(monotonic_times(seconds, 25), seconds)


def test_a_clock_that_is_set_back_goes_on_and_one_late_time_does_not_count_as_that():
    steps = np.arange(10) / 10
    np.testing.assert_allclose(monotonic_times(np.concatenate([50 + steps, steps]), 25), 50 + np.arange(20) / 10)
    late = np.arange(10.0)
    late[4] = 7.5
    np.testing.assert_allclose(monotonic_times(late, 25), np.sort(late))
    assert monotonic_times(np.array([np.nan, 1.0, np.nan, 2.0, np.nan]), 10).tolist() == [0, 1, 1.5, 2, 3]
