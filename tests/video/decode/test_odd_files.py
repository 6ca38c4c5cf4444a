"""Odd files: pipes and devices, encrypted ones, two frame sizes, slow to count, damaged after the first frames."""

import os
import shutil
import socket
import subprocess
import time

import av
import cv2
import numpy as np
import pytest
from grey import make_clip
from moving import write

from finetune.errors import VideoError
from finetune.video.decode.every_frame import check_every_frame
from finetune.video.decode.probe import frame_times, probe, scan
from finetune.video.decode.read import read_frames
from finetune.video.probe_files import inspect_files, probe_many
from finetune.video.worker_pool import Heartbeat, WorkerFailure, process_map

ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
KEY = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb")
KEY = (*KEY, "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")


def run_ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    """Opening a named pipe would wait for a writer."""
    pipe, link, local, null = (tmp_path / f"{name}.mp4" for name in ("pipe", "link", "socket", "null"))
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    null.symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(local))
        for path, kind in ((pipe, "a named pipe"), (link, "a named pipe"), (local, "a socket"), (null, "a device")):
            for read in (
                probe,
                lambda path: read_frames(path, [0]),
                lambda path: read_frames(path, [0], decoder="opencv"),
            ):
                with pytest.raises(VideoError, match=f"^{path}: is {kind}, not a file"):
                    read(path)
        paths = [pipe, local, make_clip(tmp_path / "good.mp4", 3)]
        for results in (probe_many(paths), inspect_files(paths, seconds=30)):
            assert [isinstance(result, VideoError) for result in results] == [True, True, False]
            assert "is a named pipe" in str(results[0])


@ffmpeg
@pytest.mark.parametrize("options", [(), ("-movflags", "frag_keyframe+empty_moov"), ("-movflags", "faststart")])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_encrypted_files_are_refused_as_such(tmp_path, options, suffix):
    plain = make_clip(tmp_path / "plain.mp4", 30)
    path = tmp_path / f"locked{suffix}"
    run_ffmpeg("-i", plain, "-c", "copy", "-f", "mp4", *KEY, *options, path)
    for read in (probe, lambda path: read_frames(path, [0]), lambda path: read_frames(path, [29], decoder="opencv")):
        with pytest.raises(VideoError, match=f"^{path}: is encrypted"):
            read(path)


@ffmpeg
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_change_of_size_needs_a_size_to_scale_to(tmp_path, suffix):
    parts = []
    for number, size in enumerate((48, 64)):
        make_clip(tmp_path / f"{number}.mp4", 12, size=size, start=40 + 120 * number)
        run_ffmpeg("-i", tmp_path / f"{number}.mp4", "-c", "copy", tmp_path / f"{number}.ts")
        parts.append((tmp_path / f"{number}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    path = tmp_path / f"both{suffix}"
    if suffix != ".ts":
        run_ffmpeg("-i", tmp_path / "both.ts", "-c", "copy", path)
    frames, _ = read_frames(path, [0, 23], size=(32, 32))
    assert frames.shape == (2, 3, 32, 32)
    with pytest.raises(VideoError, match="its frame size changes: frame 2 has 48 x 48 pixels, frame 20 has 64"):
        read_frames(path, [20, 2])


def wait_and_report(seconds):
    end = time.monotonic() + abs(seconds)
    while time.monotonic() < end:
        time.sleep(0.05)
        if seconds > 0:
            Heartbeat.send()
    return seconds


@pytest.mark.slow
def test_the_time_limit_starts_anew_while_a_file_is_read(monkeypatch):
    found = list(process_map(wait_and_report, [3, -3, 0.1], count=3, time_limit=1.5, extend_on_heartbeat=True))
    assert found == [3, WorkerFailure("took longer than 1.5 s to read"), 0.1]
    (found,) = process_map(wait_and_report, [3], count=1, time_limit=1.5)
    assert found == WorkerFailure("took longer than 1.5 s to read")


def test_reading_packets_restarts_the_limit(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(Heartbeat, "every_seconds", 0.1)
    monkeypatch.setattr(Heartbeat, "send", lambda: calls.append(1))
    probe(write(tmp_path, "h264_ts", 30))
    assert len(calls) > 30


@pytest.mark.parametrize(
    "kind", ["h264", "h264_b", "h264_mkv", "h264_ts", "hevc", "vp9", "mpeg4_avi", "mjpeg_avi", "gif"]
)
def test_every_frame_of_whole_files_is_sound(tmp_path, kind):
    check_every_frame(write(tmp_path, kind, 30), num_frames=30)


@pytest.mark.parametrize(
    ("kind", "is_named_by"), [("h264", "is damaged after frame"), ("mjpeg_avi", "is damaged after frame")]
)
def test_damage_behind_the_frames_that_are_looked_at_is_named(tmp_path, kind, is_named_by):
    path = write(tmp_path, kind, 60)
    info = probe(path)
    data = bytearray(path.read_bytes())
    place = len(data) * 4 // 5  # after the fourth of the five frames that are looked at
    data[place : place + 400] = bytes(400)
    path.write_bytes(data)
    (plain,) = inspect_files([path], seconds=30)
    assert not isinstance(plain, VideoError)
    (found,) = inspect_files([path], seconds=30, every_frame=True)
    assert isinstance(found, VideoError) and is_named_by in str(found)
    number, seconds = (float(part) for part in str(found).replace("(", "").split("frame ")[1].split(" s)")[0].split())
    assert 44 < number < 59
    assert seconds == pytest.approx((number - 1) / info.fps, abs=0.2)


def without_keyframe(source, target, lost):
    """Copy a video without decoding it and without its keyframe number `lost`."""
    keyframes = 0
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        for packet in reading.demux(stream):
            keyframes += packet.is_keyframe
            if packet.size and not (packet.is_keyframe and keyframes == lost):
                packet.stream = copied
                writing.mux(packet)
    return target


def test_frames_behind_a_lost_keyframe_are_refused_and_not_numbered_anew(tmp_path):
    """The decoder outputs fewer frames than the file lists: counting would give wrong numbers after the gap."""
    whole = write(tmp_path, "h264_b", 48)
    path = without_keyframe(whole, tmp_path / "gap.mp4", 2)
    assert probe(path).num_frames == 47
    for read in (frame_times, lambda path: read_frames(path, [14]), lambda path: read_frames(path, [14, 40])):
        with pytest.raises(VideoError, match=f"^{path}: is damaged or cut off: it lists 47 frames, but only \\d+ can"):
            read(path)
    np.testing.assert_array_equal(read_frames(path, [40])[0], read_frames(whole, [41])[0])


def test_every_image_of_a_folder_is_decoded(tmp_path):
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number:03}.jpg"), np.full((32, 32, 3), 200, np.uint8))
    whole = (tmp_path / "003.jpg").read_bytes()
    (tmp_path / "003.jpg").write_bytes(whole[:200])
    (plain,) = inspect_files([tmp_path], seconds=30)
    assert not isinstance(plain, VideoError)
    (found,) = inspect_files([tmp_path], seconds=30, every_frame=True)
    assert str(found).startswith(f"{tmp_path}: 003.jpg: ")


@ffmpeg
@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("a.png", ("-c:v", "apng", "-f", "apng")),
        ("a.gif", ()),
        ("a.flv", ("-c:v", "flashsv")),
        ("b.flv", ("-c:v", "flashsv2")),
        ("a.mov", ("-c:v", "qtrle")),
        ("a.avi", ("-c:v", "zmbv")),
        ("b.avi", ("-c:v", "cinepak")),
        ("a.mkv", ("-c:v", "vc2", "-strict", "-1")),
    ],
)
def test_a_key_flag_is_not_taken_at_its_word(tmp_path, file, options):
    """All or some frames are marked as keyframes, but most refer to the one before."""
    path = tmp_path / file
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=2", *options, path)
    layout = scan(path)[1]
    expected, _ = read_frames(path, range(20))
    assert len(np.unique(expected.reshape(20, -1), axis=0)) > 17
    for known in (None, layout):
        for index in (19, 13, 1):
            np.testing.assert_array_equal(read_frames(path, [index], layout=known)[0], expected[[index]])
