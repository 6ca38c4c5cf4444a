"""What a task reads for itself: places, the frame in the middle, pictures in whichever layout a network has them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finetune.errors import ModelError
from finetune.model.multitask.task_readers import (
    COORDINATE_SCALE,
    NUM_KEYPOINTS,
    UNIFORM_STD,
    Keypoints,
    MiddleFrame,
    SpatialMean,
    TaskReader,
    to_feature_maps,
)
from finetune.recipe.tasks import Task


def keypoints_of_brightness(channels=1):
    """Whose first point lies where the first channel is brightest."""
    reader = Keypoints(channels)
    with torch.no_grad():
        for parameter in (*reader.mix.parameters(), *reader.project.parameters()):
            parameter.zero_()
        reader.mix.weight[0, 0, 1, 1] = 10
        reader.project.weight[0, 0] = 10
    return reader


def first_point(reader, maps):
    """(x, y, spread in x, spread in y) of the first point, in shares of the picture, and those of all others."""
    found = reader(maps)[0, 0].detach().view(4, NUM_KEYPOINTS) / COORDINATE_SCALE
    mean_x, spread_x, mean_y, spread_y = found
    points = torch.stack([mean_x + 0.5, mean_y + 0.5, spread_x + UNIFORM_STD, spread_y + UNIFORM_STD])
    return points[:, 0].tolist(), points[:, 1:]


@given(st.integers(2, 12), st.integers(2, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_a_bright_place_is_found_where_it_is(height, width, data):
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    maps = torch.zeros(1, 1, 1, height, width)
    maps[..., y, x] = 1
    point, others = first_point(keypoints_of_brightness(), maps)
    assert point[:2] == pytest.approx([(x + 0.5) / width, (y + 0.5) / height], abs=1e-3)
    assert max(point[2:]) < 0.01
    torch.testing.assert_close(others[:2], torch.full_like(others[:2], 0.5))  # look at nothing: evenly everywhere


def test_a_point_between_two_places_says_how_far_they_are_apart():
    maps = torch.zeros(1, 1, 1, 8, 8)
    maps[..., 3, [1, 5]] = 1
    point, _ = first_point(keypoints_of_brightness(), maps)
    assert point == pytest.approx([3.5 / 8, 3.5 / 8, 2 / 8, 0], abs=2e-3)


def test_places_that_are_all_the_same_give_about_nothing():
    found = keypoints_of_brightness()(torch.full((2, 3, 1, 14, 14), 7.0))
    assert found.shape == (2, 3, 4 * NUM_KEYPOINTS)
    assert found.abs().max() < 0.02 * COORDINATE_SCALE


def test_points_of_each_picture_are_its_own():
    reader, maps = Keypoints(3).eval(), torch.randn(2, 4, 3, 5, 6)
    found = reader(maps)
    for clip, step in ((0, 0), (1, 2)):
        torch.testing.assert_close(found[clip, step], reader(maps[clip : clip + 1, step : step + 1])[0, 0])


def test_points_learn_to_follow_what_is_to_be_found():
    torch.manual_seed(0)
    reader, head = Keypoints(4), nn.Linear(4 * NUM_KEYPOINTS, 2)
    optimizer = torch.optim.AdamW([*reader.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(60):
        places = torch.randint(0, 8, (32, 2))
        maps = 0.3 * torch.randn(32, 1, 4, 8, 8)
        maps[torch.arange(32), 0, 2, places[:, 1], places[:, 0]] += 3
        error = (head(reader(maps)[:, 0]) - COORDINATE_SCALE * (places / 8 - 0.5)).square().mean()
        optimizer.zero_grad()
        error.backward()
        assert all(each.grad is not None for each in reader.parameters())
        optimizer.step()
    assert error < 0.3  # 25 / 12 for a guess that knows nothing


def test_numbers_of_half_the_bits_stay_so():
    assert Keypoints(2).bfloat16()(torch.randn(1, 2, 2, 4, 4).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("steps", "wanted"), [(1, 0.0), (2, 0.5), (3, 1.0), (4, 1.5), (7, 3.0), (8, 3.5), (31, 15.0), (300, 149.5)]
)
def test_the_middle_is_one_frame_or_the_mean_of_two(steps, wanted):
    features = torch.arange(float(steps)).view(1, steps, 1).expand(2, steps, 3)
    assert torch.equal(MiddleFrame()(features), torch.full((2, 3), wanted))


CLIPS, STEPS, CHANNELS, SIDE = 2, 3, 5, 4
MAPS = torch.arange(float(CLIPS * STEPS * CHANNELS * SIDE * SIDE)).view(CLIPS, STEPS, CHANNELS, SIDE, SIDE)
FRAMES = MAPS.flatten(0, 1)
TOKENS = FRAMES.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("given_as", "takes_clips"),
    [
        (FRAMES, False),
        (FRAMES.contiguous(memory_format=torch.channels_last), False),
        (FRAMES.movedim(1, 3), False),
        (TOKENS, False),
        (torch.cat([torch.full((CLIPS * STEPS, 1, CHANNELS), -1.0), TOKENS], 1), False),
        (torch.cat([torch.full((CLIPS * STEPS, 5, CHANNELS), -1.0), TOKENS], 1), False),
        (MAPS.transpose(1, 2), True),
        (MAPS.movedim(2, 4), True),
    ],
    ids=["conv", "channels last in memory", "NHWC", "tokens", "a class token", "registers", "clips", "clips NHWC"],
)
def test_pictures_are_found_in_each_layout(given_as, takes_clips):
    assert torch.equal(to_feature_maps(given_as, clips=CLIPS, takes_clips=takes_clips), MAPS)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("side", [2, 4, 8])
def test_clips_are_told_from_pictures_with_channels_last_whatever_their_length(steps, side):
    maps = torch.randn(2, steps, 24, side, side)
    assert torch.equal(to_feature_maps(maps.transpose(1, 2), clips=2, takes_clips=True), maps)
    assert torch.equal(to_feature_maps(maps.movedim(2, 4), clips=2, takes_clips=True), maps)


@pytest.mark.parametrize(
    ("shape", "takes_clips"), [((6, 5), False), ((2, 5), True), ((2, 9, 5), True), ((6, 5, 4, 4), True)]
)
def test_what_is_no_picture_is_refused_with_its_shape(shape, takes_clips):
    with pytest.raises(ModelError, match=rf"returns a tensor \({shape[0]}, .*no positions in the picture"):
        to_feature_maps(torch.zeros(shape), clips=2, takes_clips=takes_clips)


@pytest.mark.parametrize(
    ("task", "space", "temporal", "width"),
    [
        (Task(kind="box"), "Keypoints", "MiddleFrame", 4 * NUM_KEYPOINTS),
        (Task(kind="motion"), "Keypoints", "SlopePooling", 2 * 4 * NUM_KEYPOINTS),
        (Task(kind="motion", spatial_pooling="mean", temporal="concat"), "SpatialMean", "ConcatPooling", 4 * 7),
        (Task(kind="classify", feature_stage="layer1"), "SpatialMean", "MaxPooling", 7),
        (
            Task(kind="regress", feature_stage="layer1", spatial_pooling="keypoints", temporal="mean"),
            "Keypoints",
            "MeanPooling",
            4 * NUM_KEYPOINTS,
        ),
    ],
)
def test_a_reader_is_as_its_task_says_and_gives_the_width_that_it_says(task, space, temporal, width):
    reader = TaskReader(task, "max", width=7, num_steps=4, reads_maps=True)
    assert (type(reader.space).__name__, type(reader.temporal).__name__) == (space, temporal)
    assert reader(torch.randn(3, 4, 7, 5, 5)).shape == (3, reader.width) and reader.width == width


def test_a_reader_of_pooled_features_leaves_space_alone():
    reader = TaskReader(Task(kind="regress", temporal="middle"), "mean", width=7, num_steps=3, reads_maps=False)
    features = torch.randn(2, 3, 7)
    assert torch.equal(reader(features), features[:, 1]) and reader.width == 7
    assert torch.equal(SpatialMean()(MAPS), MAPS.mean((3, 4)))
