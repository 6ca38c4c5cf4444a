from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import VideoError
from finetune.recipe import Clip
from finetune.video.sampling import SAMPLERS, sample_indices


@given(
    sampling=st.sampled_from(sorted(SAMPLERS)),
    num_frames=st.integers(1, 40),
    stride=st.integers(1, 9),
    video_frames=st.integers(1, 2000),
    views=st.integers(1, 5),
    seed=st.none() | st.integers(0, 9),
)
def test_indices_are_in_range_in_order_and_as_many_as_asked(sampling, num_frames, stride, video_frames, views, seed):
    clip = Clip(num_frames=num_frames, sampling=sampling, frame_stride=stride)
    for view in range(views):
        jitter = None if seed is None else Random(seed)
        indices = sample_indices(clip, video_frames, view=view, views=views, jitter=jitter)
        assert len(indices) == num_frames
        assert all(isinstance(index, int) and 0 <= index < video_frames for index in indices)
        assert indices == sorted(indices)


def test_segments_take_the_middle_of_each_part():
    clip = Clip(num_frames=4)
    assert sample_indices(clip, 40) == [5, 15, 25, 35]
    assert sample_indices(clip, 4) == [0, 1, 2, 3]
    assert sample_indices(clip, 2) == [0, 0, 1, 1]
    assert sample_indices(clip, 1) == [0, 0, 0, 0]


@given(video_frames=st.integers(1, 500), num_frames=st.integers(1, 16), seed=st.integers(0, 99))
def test_jittered_segments_stay_in_their_part(video_frames, num_frames, seed):
    indices = sample_indices(Clip(num_frames=num_frames), video_frames, jitter=Random(seed))
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
    starts = {sample_indices(clip, 27, jitter=Random(seed))[0] for seed in range(300)}
    assert starts == set(range(21))


def test_a_video_shorter_than_a_dense_clip_repeats_loops_or_is_refused():
    assert sample_indices(Clip(num_frames=5, sampling="dense"), 3) == [0, 1, 2, 2, 2]
    assert sample_indices(Clip(num_frames=5, sampling="dense", short="loop"), 3) == [0, 1, 2, 0, 1]
    with pytest.raises(VideoError, match="has 3 frames.*a clip spans 5"):
        sample_indices(Clip(num_frames=5, sampling="dense", short="error"), 3)


def test_uniform_takes_the_first_and_the_last():
    assert sample_indices(Clip(num_frames=3, sampling="uniform"), 31) == [0, 15, 30]
    assert sample_indices(Clip(num_frames=1, sampling="uniform"), 31) == [15]
