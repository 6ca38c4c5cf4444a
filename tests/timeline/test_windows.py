"""Windows of a recording: as many frames as were asked for, at even steps, and shared wherever that can be."""

import numpy as np
import pytest

from finetune.errors import VideoError
from finetune.recipe.schema import Clip
from finetune.timeline.windows import frame_seconds, plan_windows
from finetune.video.sampling import sample_indices

EVEN = np.arange(500) / 25
SAMPLINGS = [
    {"num_frames": 8},
    {"num_frames": 5, "sampling": "uniform"},
    {"num_frames": 16, "sampling": "dense", "frame_stride": 3},
    {"num_frames": 16, "sampling": "around", "frame_stride": 3},
    {"num_frames": 6, "sampling": "fps", "fps": 5.0},
]


@pytest.mark.parametrize("settings", SAMPLINGS, ids=lambda settings: settings.get("sampling", "segments"))
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("times", [EVEN, np.round(EVEN, 2) + 7.5, np.sort(np.random.default_rng(0).random(500) * 20)])
def test_a_window_takes_the_frames_that_a_clip_of_its_frames_takes(settings, views, times):
    clip = Clip(**settings)
    windows = plan_windows(times, clip, views=views, window_seconds=2.0)
    assert len(windows) > 20
    for first, count, sampled in zip(windows.firsts_W, windows.counts_W, windows.sampled_WVT, strict=True):
        shown = np.rint(times[first : first + count] * 1e6).astype(int).tolist()
        for view in range(views):
            inside = sample_indices(clip, int(count), view=view, views=views, times=shown)
            assert sampled[view].tolist() == [min(max(first + index, 0), len(times) - 1) for index in inside]


@pytest.mark.parametrize("settings", SAMPLINGS, ids=lambda settings: settings.get("sampling", "segments"))
def test_windows_that_overlap_by_three_quarters_share_frames(settings):
    """Three quarters of them, but where the frames of a clip span less than the window: of `fps` here a half."""
    sampled = plan_windows(EVEN, Clip(**settings), views=1, window_seconds=2.0).sampled_WVT
    assert len(np.unique(sampled)) / sampled.size < (0.36 if settings.get("sampling") == "fps" else 0.28)


def test_length_and_step_are_near_to_those_asked_for():
    for seconds in (0.9, 1.7, 2.0, 3.3, 6.1):
        windows = plan_windows(EVEN, Clip(num_frames=8), views=1, window_seconds=seconds, step_seconds=seconds / 3)
        assert windows.seconds == pytest.approx(seconds, rel=0.1)
        assert abs(windows.step_seconds - seconds / 3) <= windows.seconds / 8
        assert np.diff(windows.times_W) == pytest.approx(windows.step_seconds)
        assert windows.times_W[0] == pytest.approx(windows.seconds / 2)
        assert EVEN[-1] + 0.04 - windows.step_seconds < windows.times_W[-1] + windows.seconds / 2 <= EVEN[-1] + 0.041


def test_a_step_shorter_than_the_spacing_of_frames_is_kept():
    windows = plan_windows(EVEN, Clip(num_frames=4), views=1, window_seconds=4.0, step_seconds=0.2)
    assert np.diff(windows.firsts_W).tolist() == [5] * (len(windows) - 1)


def test_uneven_frames_are_found_by_their_times():
    times = np.array([0, 0.1, 0.2, 0.3, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5])
    windows = plan_windows(times, Clip(num_frames=2), views=1, window_seconds=1.0, step_seconds=0.5)
    assert windows.firsts_W[:5].tolist() == [0, 3, 3, 3, 3]
    assert windows.counts_W[:5].tolist() == [4, 1, 1, 1, 1], "the frame that is shown, where none begins"
    assert windows.firsts_W[-1] + windows.counts_W[-1] <= len(times)


def test_a_recording_shorter_than_a_window_has_one_of_all_its_frames():
    for times in (EVEN[:10], EVEN[:1], np.array([0, 0.1, 2.0])):
        windows = plan_windows(times, Clip(num_frames=4), views=1, window_seconds=30.0)
        assert (windows.firsts_W.tolist(), windows.counts_W.tolist()) == ([0], [len(times)])
        assert windows.times_W[0] == pytest.approx((times[-1] + frame_seconds(times)) / 2, abs=0.5)


def test_a_window_too_short_for_the_clip_is_refused_where_the_recipe_says_so():
    with pytest.raises(VideoError, match="clip.short_clips"):
        plan_windows(EVEN, Clip(num_frames=8, short_clips="error"), views=1, window_seconds=0.1)
