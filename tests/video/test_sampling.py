"""Frame indices are in range, in order, `num_frames` of them, and a function of the arguments alone."""

import random
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import RecipeError, VideoError
from finetune.recipe.schema import Augment, Clip
from finetune.video.sampling import MICROSECONDS_PER_SECOND, Jitter, sample_indices

SAMPLINGS = ["segments", "dense", "uniform", "fps"]


def jitter_of(seed, **kwargs):
    return Jitter(Random(seed), **kwargs)


@st.composite
def clips(draw):
    return Clip(
        num_frames=draw(st.integers(1, 40)),
        sampling=draw(st.sampled_from(SAMPLINGS)),
        frame_stride=draw(st.integers(1, 9)),
        fps=draw(st.floats(0.5, 120)),
        short_clips=draw(st.sampled_from(["repeat_last", "loop", "error"])),
    )


@st.composite
def rising_times(draw, count):
    """Frame times in microseconds of a video with a variable frame rate, as of phones."""
    gaps = np.random.default_rng(draw(st.integers(0, 2**16))).integers(1000, 200_000, count)
    return (draw(st.integers(-MICROSECONDS_PER_SECOND, MICROSECONDS_PER_SECOND)) + np.cumsum(gaps)).tolist()


@given(data=st.data(), clip=clips(), video_frames=st.integers(1, 2000), views=st.integers(1, 5))
def test_indices_are_in_range_in_order_and_as_many_as_asked(data, clip, video_frames, views):
    times = data.draw(rising_times(video_frames)) if clip.sampling == "fps" else None
    low = data.draw(st.floats(0.25, 1))
    jitters = [None, jitter_of(3), jitter_of(3, speed=(low, 2 * low), frame_dropout=data.draw(st.floats(0, 0.9)))]
    for jitter in jitters:
        for view in range(views if jitter is None else 1):
            try:
                indices = sample_indices(clip, video_frames, view=view, views=views, jitter=jitter, times=times)
            except VideoError:
                assert clip.short_clips == "error"
                continue
            assert len(indices) == clip.num_frames
            assert all(type(index) is int and 0 <= index < video_frames for index in indices)
            if clip.short_clips != "loop":
                assert indices == sorted(indices)


@given(data=st.data(), clip=clips(), video_frames=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_indices_follow_from_the_arguments_alone(data, clip, video_frames, seed):
    clip = clip.model_copy(update={"short_clips": "repeat_last"})
    times = data.draw(rising_times(video_frames)) if clip.sampling == "fps" else None
    state = random.getstate()
    found = [
        sample_indices(clip, video_frames, jitter=jitter_of(seed, speed=(0.8, 1.25), frame_dropout=0.2), times=times)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert random.getstate() == state


@pytest.mark.parametrize("video_frames", [1, 2, 7, 31, 300])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_indices_of_a_seed_do_not_change(sampling, video_frames):
    """The same frames as in earlier runs: a change here changes what every recipe trains on."""
    clip = Clip(num_frames=4, sampling=sampling, frame_stride=3, fps=5)
    times = [40_000 * frame for frame in range(video_frames)]
    drawn = sample_indices(clip, video_frames, jitter=jitter_of(11), times=times)
    assert [sample_indices(clip, video_frames, times=times), drawn] == GOLDEN[sampling, video_frames]


GOLDEN = {
    # sampling, frames of the video: in evaluation, and in training with seed 11
    ("segments", 1): [[0, 0, 0, 0], [0, 0, 0, 0]],
    ("segments", 2): [[0, 0, 1, 1], [0, 0, 1, 1]],
    ("segments", 7): [[0, 2, 4, 6], [0, 2, 4, 5]],
    ("segments", 31): [[3, 11, 19, 27], [3, 14, 22, 26]],
    ("segments", 300): [[37, 112, 187, 262], [57, 146, 209, 282]],
    ("dense", 1): [[0, 0, 0, 0], [0, 0, 0, 0]],
    ("dense", 2): [[0, 1, 1, 1], [0, 1, 1, 1]],
    ("dense", 7): [[0, 3, 6, 6], [0, 3, 6, 6]],
    ("dense", 31): [[10, 13, 16, 19], [14, 17, 20, 23]],
    ("dense", 300): [[145, 148, 151, 154], [231, 234, 237, 240]],
    ("uniform", 1): [[0, 0, 0, 0], [0, 0, 0, 0]],
    ("uniform", 2): [[0, 0, 1, 1], [0, 0, 1, 1]],
    ("uniform", 7): [[0, 2, 4, 6], [0, 2, 4, 6]],
    ("uniform", 31): [[0, 10, 20, 30], [0, 10, 20, 30]],
    ("uniform", 300): [[0, 100, 199, 299], [0, 100, 199, 299]],
    ("fps", 1): [[0, 0, 0, 0], [0, 0, 0, 0]],
    ("fps", 2): [[0, 1, 1, 1], [0, 1, 1, 1]],
    ("fps", 7): [[0, 5, 6, 6], [0, 5, 6, 6]],
    ("fps", 31): [[7, 12, 17, 22], [11, 16, 21, 26]],
    ("fps", 300): [[142, 147, 152, 157], [189, 194, 199, 204]],
}


def test_segments_take_the_middle_of_each_part():
    clip = Clip(num_frames=4)
    assert sample_indices(clip, 40) == [5, 15, 25, 35]
    assert sample_indices(clip, 4) == [0, 1, 2, 3]
    assert sample_indices(clip, 2) == [0, 0, 1, 1]
    assert sample_indices(clip, 1) == [0, 0, 0, 0]


@given(video_frames=st.integers(1, 500), num_frames=st.integers(1, 16), seed=st.integers(0, 99))
def test_jittered_segments_stay_in_their_part(video_frames, num_frames, seed):
    indices = sample_indices(Clip(num_frames=num_frames), video_frames, jitter=jitter_of(seed))
    for part, index in enumerate(indices):
        low, high = part * video_frames // num_frames, (part + 1) * video_frames // num_frames
        assert low <= index < max(high, low + 1)


def test_views_of_segments_are_spread_within_each_part():
    clip = Clip(num_frames=2)
    assert [sample_indices(clip, 40, view=view, views=2) for view in range(2)] == [[5, 25], [15, 35]]


def test_dense_is_centred_and_its_views_spread():
    clip = Clip(num_frames=4, sampling="dense", frame_stride=2)
    assert sample_indices(clip, 27) == [10, 12, 14, 16]
    assert [sample_indices(clip, 27, view=view, views=2)[0] for view in range(2)] == [5, 15]
    starts = {sample_indices(clip, 27, jitter=jitter_of(seed))[0] for seed in range(300)}
    assert starts == set(range(21))


def test_a_video_shorter_than_a_dense_clip_repeats_loops_or_is_refused():
    assert sample_indices(Clip(num_frames=5, sampling="dense"), 3) == [0, 1, 2, 2, 2]
    assert sample_indices(Clip(num_frames=5, sampling="dense", short_clips="loop"), 3) == [0, 1, 2, 0, 1]
    with pytest.raises(VideoError, match="has 3 frames.*a clip spans 5"):
        sample_indices(Clip(num_frames=5, sampling="dense", short_clips="error"), 3)


def test_uniform_takes_the_first_and_the_last():
    assert sample_indices(Clip(num_frames=3, sampling="uniform"), 31) == [0, 15, 30]
    assert sample_indices(Clip(num_frames=1, sampling="uniform"), 31) == [15]


def test_views_of_uniform_take_turns():
    clip = Clip(num_frames=3, sampling="uniform")
    assert [sample_indices(clip, 26, view=view, views=2) for view in range(2)] == [[0, 10, 20], [5, 15, 25]]


@pytest.mark.parametrize("sampling", ["segments", "uniform"])
def test_a_video_with_fewer_frames_than_a_clip_repeats_them_in_order_or_is_refused(sampling):
    assert sample_indices(Clip(num_frames=4, sampling=sampling, short_clips="loop"), 2) == [0, 0, 1, 1]
    with pytest.raises(VideoError, match="has 2 frames.*a clip spans 4"):
        sample_indices(Clip(num_frames=4, sampling=sampling, short_clips="error"), 2)


@pytest.mark.parametrize("views", [1, 3])
def test_clips_of_any_rate_show_the_same_instants(views):
    clip = Clip(num_frames=6, sampling="fps", fps=5)
    for view in range(views):
        shown = {}
        for rate in (25, 30, 50):
            times = [round(MICROSECONDS_PER_SECOND * frame / rate) for frame in range(3 * rate)]
            indices = sample_indices(clip, len(times), view=view, views=views, times=times)
            shown[rate] = [times[index] / MICROSECONDS_PER_SECOND for index in indices]
        np.testing.assert_allclose(shown[25], shown[30], atol=1 / 25 + 1e-3)
        np.testing.assert_allclose(shown[25], shown[50], atol=1 / 25 + 1e-3)
        np.testing.assert_allclose(np.diff(shown[50]), 1 / 5, atol=1 / 50 + 1e-3)


def test_a_frame_is_on_show_until_the_next():
    clip = Clip(num_frames=4, sampling="fps", fps=10)
    times = [0, 50_000, 350_000, 360_000, 390_000]  # one frame lasts 0.3 s
    assert sample_indices(clip, 5, times=times) == [1, 1, 1, 4]  # at 94, 194, 294 and 394 ms
    assert sample_indices(clip.model_copy(update={"num_frames": 5}), 5, times=times) == [0, 1, 1, 1, 4]


def test_short_videos_are_treated_by_time_as_asked():
    times = [100_000 * frame for frame in range(3)]
    clip = Clip(num_frames=5, sampling="fps", fps=10)
    assert sample_indices(clip, 3, times=times) == [0, 1, 2, 2, 2]
    assert sample_indices(clip.model_copy(update={"short_clips": "loop"}), 3, times=times) == [0, 1, 2, 0, 1]
    with pytest.raises(VideoError, match=r"lasts 0.30 s.*a clip lasts 0.40 s"):
        sample_indices(clip.model_copy(update={"short_clips": "error"}), 3, times=times)
    assert sample_indices(clip, 1, times=[7]) == [0] * 5


def test_speed_scales_the_stride_of_dense_clips():
    clip = Clip(num_frames=5, sampling="dense", frame_stride=4)
    steps = {tuple(np.diff(sample_indices(clip, 400, jitter=jitter_of(n, speed=(0.5, 2))))) for n in range(300)}
    assert min(map(min, steps)) == 2
    assert max(map(max, steps)) == 8
    twice = sample_indices(clip, 400, jitter=jitter_of(1, speed=(2, 2)))
    assert np.diff(twice).tolist() == [8] * 4


def test_speed_shrinks_the_part_that_segments_are_spread_over():
    clip = Clip(num_frames=50)
    spans = [np.ptp(sample_indices(clip, 1000, jitter=jitter_of(n, speed=(0.5, 1)))) for n in range(200)]
    assert 460 < min(spans) < 520
    assert 960 < max(spans) < 1000


def test_dropped_frames_are_replaced_by_the_one_before():
    clip = Clip(num_frames=8, sampling="dense")
    share = []
    for seed in range(200):
        indices = sample_indices(clip, 8, jitter=jitter_of(seed, frame_dropout=0.25))
        share += [after == before for before, after in pairwise(indices)]
        assert indices[0] == 0
    assert 0.2 < np.mean(share) < 0.3


def test_a_recipe_says_what_its_sampling_needs():
    with pytest.raises(RecipeError, match="fps is not set; for example fps: 10"):
        Clip(sampling="fps")
    with pytest.raises(RecipeError, match="is not a range; write the lower value first"):
        Augment(speed=(2.0, 1.0))
