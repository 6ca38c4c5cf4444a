"""A cut video shows the frames of the parts bit for bit where they are copied, and sounds in step with them."""

import shutil
import subprocess

import numpy as np
import pytest
from grey import make_images
from sounding import FPS, beep_times, decoded_frames, flash_times, problems_of, write_recording

from finetune.errors import RunError, VideoError
from finetune.video.cut import write as write_module
from finetune.video.cut.write import cut_video
from finetune.video.encode import RecordingWriter

GOP = {"g": "10", "keyint_min": "10", "sc_threshold": "0"}
KEYINT = "keyint=10:min-keyint=10:scenecut=0"
CASES = {
    "h264 without B-frames": ("mp4", "libx264", GOP | {"bf": "0"}, ("aac",)),
    "h264 with B-frames": ("mp4", "libx264", GOP | {"bf": "3", "x264-params": "b-pyramid=normal"}, ("aac",)),
    "h264 in Matroska": ("mkv", "libx264", GOP | {"bf": "2"}, ("libopus",)),
    "h264 in a transport stream": ("ts", "libx264", GOP | {"bf": "2"}, ("aac",)),
    "h264 in AVI": ("avi", "libx264", GOP | {"bf": "0"}, ("libmp3lame",)),
    "h264 in QuickTime with pcm": ("mov", "libx264", GOP, ("pcm_s16le",)),
    "hevc": ("mp4", "libx265", {"x265-params": f"{KEYINT}:open-gop=0:log-level=none"}, ("aac",)),
    "mpeg4": ("avi", "mpeg4", {"g": "10", "sc_threshold": "1000000000"}, ("libmp3lame",)),
    "vp9": ("webm", "libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, ("libopus",)),
    "vp8": ("webm", "libvpx", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, ("libopus",)),
    "av1": ("mkv", "libsvtav1", {"g": "10", "preset": "12"}, ("libopus",)),
    "mjpeg": ("avi", "mjpeg", {}, ("pcm_s16le",)),
    "prores": ("mov", "prores", {}, ("pcm_s16le",)),
    "several sound streams": ("mkv", "libx264", GOP, ("aac", "flac", "ac3")),
    "no sound": ("mp4", "libx264", GOP, ()),
}  # fmt: skip
PARTS = [(0.6, 1.4), (2.05, 2.45), (3.0, 3.8)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The recording of a case of CASES, written when it is asked for."""
    folder, written = tmp_path_factory.mktemp("recordings"), {}

    def recording(case):
        if case not in written:
            suffix, video, options, sounds = CASES[case]
            path = folder / f"{len(written)}.{suffix}"
            written[case] = write_recording(path, video=video, options=options, sounds=sounds)
        return written[case]

    return recording


def number_of_frames(start, end):
    return int(np.ceil(end * FPS - 1e-6) - np.ceil(start * FPS - 1e-6))


def shown_runs(frames, source, starts):
    """(first, end) of the frames of `source` that `frames` are, one after the other; runs begin at `starts`."""
    everything, place, runs = decoded_frames(source), 0, []
    for start in starts:
        end = start
        while place < len(frames) and end < len(everything) and np.array_equal(frames[place][1], everything[end][1]):
            place, end = place + 1, end + 1
        runs.append((start, end))
    assert place == len(frames), f"frame {place} is not frame {end} of the source"
    return runs


def assert_in_step(path, *, frames, tracks=1):
    flashes = flash_times(path)
    assert flashes
    for track in range(tracks):
        beeps = beep_times(path, track=track)
        near = [min(abs(beep - flash) for beep in beeps) for flash in flashes]
        assert max(near) < frames / FPS, (flashes, beeps)


@pytest.mark.parametrize("case", CASES)
def test_packets_are_copied_and_every_frame_and_beep_is_in_its_place(recordings, tmp_path, monkeypatch, case):
    monkeypatch.setattr(write_module, "MAX_LONGER", 0.6)
    sounds = CASES[case][3]
    cut = cut_video(recordings(case), PARTS, tmp_path / "cut")
    assert cut.is_copy, cut.reason
    assert problems_of(cut.path) == ""
    frames = decoded_frames(cut.path)
    times = np.array([time for time, _ in frames])
    assert np.allclose(np.diff(times), 1 / FPS, atol=0.0011)
    starts = [12, 41, 60] if case in {"mjpeg", "prores"} else [10, 40, 60]
    runs = shown_runs(frames, recordings(case), starts)
    for (_, end), (_, wanted) in zip(runs, PARTS, strict=True):
        assert 0 <= end - wanted * FPS < 4, "a part ends at most some frames later, where frames are out of order"
    longer = len(frames) - sum(number_of_frames(*part) for part in PARTS)
    assert cut.longer * FPS == pytest.approx(longer, abs=0.02)
    if sounds:
        assert_in_step(cut.path, frames=1, tracks=len(sounds))


@pytest.mark.parametrize(
    ("video", "options"),
    [
        ("libx264", {"x264-params": f"{KEYINT}:open-gop=1:bframes=3"}),
        ("libx265", {"x265-params": f"{KEYINT}:open-gop=1:bframes=3:log-level=none"}),
        ("libx264", GOP | {"bf": "2", "x264-params": "intra-refresh=1:keyint=10"}),
    ],
)
def test_a_copy_that_would_show_other_frames_is_encoded_instead(tmp_path, monkeypatch, video, options):
    """Frames after an open group's keyframe refer to the group before it, which is cut off."""
    monkeypatch.setattr(write_module, "MAX_LONGER", 2.0)
    source = write_recording(tmp_path / "open.mp4", video=video, options=options, sounds=())
    cut = cut_video(source, PARTS, tmp_path / "cut")
    frames, expected = decoded_frames(cut.path), decoded_frames(source)
    assert problems_of(cut.path) == ""
    if not cut.is_copy:
        assert len(frames) == sum(number_of_frames(*part) for part in PARTS)
    else:
        starts = [max(n for n in range(int(start * FPS) + 1) if n == 0 or n % 10 == 0) for start, _ in PARTS]
        shown_runs(frames, source, starts)
    assert len(expected) == 80


@pytest.mark.parametrize("case", ["h264 with B-frames", "h264 in QuickTime with pcm", "vp8", "several sound streams"])
def test_exact_cuts_are_encoded_and_in_step(recordings, tmp_path, case):
    cut = cut_video(recordings(case), PARTS, tmp_path / "cut", exact=True)
    assert not cut.is_copy and cut.path.name == "cut.mp4" and cut.reason == "exact cuts were asked for"
    assert problems_of(cut.path) == ""
    frames, source = decoded_frames(cut.path), decoded_frames(recordings(case))
    numbers = [n for start, end in PARTS for n in range(int(np.ceil(start * FPS - 1e-6)), round(end * FPS))]
    assert [round(time * FPS) for time, _ in frames] == list(range(len(numbers)))
    errors = [
        np.abs(own[:48].astype(int) - source[n][1][:48]).mean() for (_, own), n in zip(frames, numbers, strict=True)
    ]
    assert max(errors) < 4, "levels of 255"
    assert_in_step(cut.path, frames=1, tracks=len(CASES[case][3]))


def test_keyframes_that_are_far_apart_are_a_reason_to_encode(tmp_path):
    source = write_recording(tmp_path / "long.mp4", seconds=3, options={"g": "250"}, sounds=())
    cut = cut_video(source, [(1.5, 2.5)], tmp_path / "cut")
    assert not cut.is_copy and cut.reason == "keyframes are far apart, and a copy would be 1.5 s longer"
    assert len(decoded_frames(cut.path)) == FPS and cut.seconds == pytest.approx(1)


def test_times_of_a_variable_frame_rate_are_kept(tmp_path):
    times = [0.0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.02, 1.5, 1.6, 1.75, 1.8, 2.2, 2.3]
    writer = RecordingWriter(tmp_path / "screen.mp4", in_fragments=False)
    for number, seconds in enumerate(times):
        writer.write(np.full((32, 32, 3), 20 * number, np.uint8), seconds)
    writer.close()
    for exact in (False, True):
        cut = cut_video(tmp_path / "screen.mp4", [(0.0, 0.35), (1.9, 2.25)], tmp_path / "cut", exact=exact)
        shown = [time for time, _ in decoded_frames(cut.path)]
        assert shown == pytest.approx([0, 0.1, 0.15, 0.35] if exact else shown, abs=0.002)
        assert (np.diff(shown) > 0).all()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("exact", [False, True])
def test_a_rotated_video_is_shown_upright(recordings, tmp_path, exact):
    rotated = tmp_path / "rotated.mp4"
    command = ["ffmpeg", "-v", "error", "-display_rotation", "90", "-i", recordings("no sound"), "-c", "copy", rotated]
    if subprocess.run(command, check=False, capture_output=True).returncode:  # older than 6.0
        command[3:5], command[-1:] = [], ["-metadata:s:v", "rotate=90", rotated]
        subprocess.run(command, check=True)
    from finetune.video.decode.probe import probe

    cut = cut_video(rotated, [(1.0, 2.0)], tmp_path / "cut", exact=exact)
    info = probe(cut.path)
    assert cut.is_copy is not exact and (info.width, info.height) == (48, 64)


def test_a_folder_of_images_is_encoded(tmp_path):
    cut = cut_video(make_images(tmp_path / "images", 50), [(0.2, 0.4), (1.0, 1.2)], tmp_path / "cut")
    assert len(decoded_frames(cut.path)) == 10 and cut.seconds == pytest.approx(0.4)


@pytest.mark.parametrize("rate", [5.0, 50.0])
def test_a_folder_of_images_is_cut_at_its_rate(tmp_path, rate):
    images = make_images(tmp_path / "images", 50)
    cut = cut_video(images, [(10 / rate, 15 / rate)], tmp_path / "cut", image_rate=rate)
    whole = cut_video(images, [(0, 50 / rate)], tmp_path / "whole", image_rate=rate)
    shown, source = ([picture for _, picture in decoded_frames(video.path)] for video in (cut, whole))
    assert len(shown) == 5 and cut.seconds == pytest.approx(5 / rate)
    distances_NM = np.abs(np.stack(shown).astype(int)[:, None] - np.stack(source).astype(int)).mean((2, 3))
    assert distances_NM.argmin(1).tolist() == [10, 11, 12, 13, 14]


def test_parts_that_overlap_or_touch_become_one(recordings, tmp_path):
    source = recordings("no sound")
    cut = cut_video(source, [(1.0, 2.0), (1.5, 2.5), (2.5, 3.0)], tmp_path / "cut")
    assert shown_runs(decoded_frames(cut.path), source, [20])[0][1] == 60 and cut.longer == pytest.approx(0, abs=1e-6)


def test_parts_without_a_frame_are_refused(recordings, tmp_path):
    with pytest.raises(VideoError, match=r"4\.mp4|\.mp4: the parts of its summary hold no frame"):
        cut_video(recordings("no sound"), [(100, 101)], tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exact", [False, True])
def test_a_full_disk_is_a_plain_error_and_leaves_what_was_there(recordings, tmp_path, monkeypatch, exact):
    class Full:
        def __init__(self, output):
            self.output = output

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.output.close()

        def __getattr__(self, name):
            return getattr(self.output, name)

        def mux(self, packet):
            raise OSError(28, "No space left on device")

    opened = write_module._output
    monkeypatch.setattr(write_module, "_output", lambda path, suffix: Full(opened(path, suffix)))
    (tmp_path / "cut.mp4").write_text("before")
    with pytest.raises(RunError, match=r"cut\.mp4: cannot be written: No space left on device"):
        cut_video(recordings("no sound"), PARTS, tmp_path / "cut", exact=exact)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mp4"] and (tmp_path / "cut.mp4").read_text() == "before"


def test_ctrl_c_leaves_what_was_there(recordings, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_video(recordings("no sound"), PARTS, tmp_path / "cut", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
