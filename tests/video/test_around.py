"""Clips around a labelled frame: frames of the file outside of the row, and the middle one always its own."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from framed import TASKS, draw_labelled_videos, labelled_row, manifest_of_frames, recipe_of_frames
from grey import level_of, make_clip, make_images
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.labels import output_specs
from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.prediction.inputs import find_inputs
from finetune.recipe.schema import Augment, Clip, Recipe
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset, indices_of_views
from finetune.video.loader import ClipLoader
from finetune.video.pack.write import pack
from finetune.video.sampling import Jitter, sample_indices

FRAMES = 20
STILL = Augment(preset="none", flip=False)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A row for each frame of a video."""
    folder = tmp_path_factory.mktemp("around")
    make_clip(folder / "a.mp4", FRAMES)
    rows = [labelled_row("a.mp4", frame, [], frames=FRAMES) for frame in range(FRAMES)]
    lines = [f"a.mp4,{row['start']},{row['end']},{'ab'[place % 2]},train" for place, row in enumerate(rows)]
    (folder / "clips.csv").write_text("\n".join(["path,start,end,label,split", *lines]))
    return Manifest.from_csv(folder / "clips.csv")


def clip_of(num_frames=5, stride=2, **settings):
    return Clip(num_frames=num_frames, frame_stride=stride, sampling="around", size=32, **settings)


def wanted(frame, num_frames, stride):
    return [min(max(frame + (place - num_frames // 2) * stride, 0), FRAMES - 1) for place in range(num_frames)]


@pytest.mark.parametrize(("num_frames", "stride"), [(1, 1), (3, 1), (4, 2), (5, 3)])
@pytest.mark.parametrize("augment", [None, STILL])
def test_a_row_of_one_frame_reads_the_frames_around_it_within_the_file(manifest, num_frames, stride, augment):
    dataset = ClipDataset(manifest, "train", clip=clip_of(num_frames, stride), augment=augment)
    for frame in range(FRAMES):
        clip = dataset[(1, frame)]["clips"].numpy()
        assert level_of(clip) == wanted(frame, num_frames, stride)


def test_a_video_that_is_packed_gives_the_same_frames(manifest, tmp_path):
    pack(manifest, tmp_path / "pack", short_side=32)
    plain, packed = (
        ClipDataset(manifest, "train", clip=clip_of(), packed=where) for where in (None, tmp_path / "pack")
    )
    for frame in (0, 1, 9, FRAMES - 1):
        levels = [level_of(dataset[(1, frame)]["clips"].numpy()) for dataset in (plain, packed)]
        assert levels[0] == levels[1] == wanted(frame, 5, 2)


def test_the_frames_around_one_of_a_folder_of_images_are_its_neighbours(tmp_path):
    make_images(tmp_path / "seq", FRAMES)
    rows = [labelled_row("seq", frame, [], frames=FRAMES) for frame in (0, 7, FRAMES - 1)]
    lines = [f"seq,{row['start']},{row['end']},{'ab'[place % 2]},train" for place, row in enumerate(rows)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,start,end,label,split", *lines]))
    dataset = ClipDataset(Manifest.from_csv(tmp_path / "clips.csv"), "train", clip=clip_of(3, 1))
    for position, frame in enumerate((0, 7, FRAMES - 1)):
        assert level_of(dataset[position]["clips"].numpy()) == wanted(frame, 3, 1)


def test_prediction_of_an_interval_reads_the_frames_that_evaluation_reads(manifest):
    clip = clip_of()
    items = [(manifest.path(row), *manifest.interval(row)) for row in range(FRAMES)]
    for frame, video in enumerate(find_inputs(items, Recipe(), image_sequences=True)):
        facts = {"num_frames": video.info.num_frames, "source": video.source}
        (indices,) = indices_of_views(video.path, clip, 1, **facts)
        assert [video.first_frame + index for index in indices] == wanted(frame, 5, 2)


def test_a_clip_that_needs_frames_outside_of_the_file_can_be_refused(manifest):
    dataset = ClipDataset(manifest, "train", clip=clip_of(short_clips="error"))
    assert level_of(dataset[4]["clips"].numpy()) == [0, 2, 4, 6, 8]
    with pytest.raises(VideoError, match=r"a clip around frame 3 needs frames outside of the 20 frames of the file"):
        dataset[3]


@given(
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 300),
    st.floats(0.3, 1),
    st.floats(0, 0.9),
    st.integers(0, 2**32),
)
def test_the_middle_frame_stays_whatever_is_drawn(num_frames, stride, frames, low, dropout, seed):
    clip = clip_of(num_frames, stride)
    jitter = Jitter(Random(seed), speed=(low, 3 * low), frame_dropout=dropout)
    indices = sample_indices(clip, frames, jitter=jitter)
    assert len(indices) == num_frames and indices[num_frames // 2] == frames // 2
    assert all(one <= two for one, two in pairwise(indices))
    assert sample_indices(clip, frames) == [
        frames // 2 + (place - num_frames // 2) * stride for place in range(num_frames)
    ]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    path = draw_labelled_videos(tmp_path_factory.mktemp("labelled"), train=2, val=0, test=0)
    recipe = recipe_of_frames(path)
    return manifest_of_frames(recipe), recipe


def dataset_of(labelled, **options):
    manifest, recipe = labelled
    outputs = output_specs(manifest.tasks, manifest.rows("train"), clip_size=recipe.clip.size)
    augment = recipe.augment.model_copy(update={"speed": (0.5, 2.0), "frame_dropout": 0.3, "rotate": 10.0})
    return ClipDataset(manifest, "train", clip=recipe.clip, augment=augment, outputs=outputs, seed=3, **options)


def test_an_item_of_objects_and_masks_follows_from_its_seed_epoch_and_row_alone(labelled):
    one, other = dataset_of(labelled), dataset_of(labelled)
    for epoch in (1, 2):
        for position in reversed(range(len(one))):
            first, again = one[(epoch, position)], other[(epoch, position)]
            assert np.array_equal(first["clips"], again["clips"])
            np.testing.assert_array_equal(first["label"], again["label"])
    assert not np.array_equal(one[(1, 0)]["clips"], one[(2, 0)]["clips"])
    assert len(one[(1, 0)]["label"]) == one.layout.width == 2 * 8 + 2 * 8 + 64 * 64 + 2 + len(TASKS)


def test_workers_give_the_same_items(labelled):
    dataset = dataset_of(labelled)
    found = []
    for workers in (0, 2):
        with ClipLoader(dataset, EpochBatchSampler(len(dataset), 3, seed=1), workers=workers) as loader:
            found.append([{name: batch[name].numpy().copy() for name in ("clips", "label", "row")} for batch in loader])
    assert len(found[0]) == len(found[1]) > 1
    for here, there in zip(*found, strict=True):
        for name, values in here.items():
            np.testing.assert_array_equal(values, there[name])
