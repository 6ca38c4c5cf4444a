from dataclasses import replace

import numpy as np
import pytest
import torch
from grey import make_clip
from torch.utils.data import DataLoader

from finetune.data.manifest import Manifest
from finetune.errors import RecipeError, VideoError
from finetune.recipe.schema import Augment, Clip
from finetune.video.augment import build_augmentation, center_crop
from finetune.video.batch_sampler import EpochBatchSampler
from finetune.video.dataset import ClipDataset, draw_seed
from finetune.video.loader import ClipLoader
from finetune.video.probe_files import scan_files

CLIP = Clip(num_frames=4, size=24)


@pytest.fixture(scope="module")
def manifest(clip_folder):
    return Manifest.from_folder(clip_folder)


@pytest.fixture
def dataset(manifest):
    return ClipDataset(manifest, "train", clip=CLIP, views=1, augment=Augment(), seed=3)


def test_an_item_is_a_clip_its_label_and_its_row(manifest):
    dataset = ClipDataset(manifest, "val", clip=CLIP, views=2)
    item = dataset[1]
    assert item["clips"].shape == (2, 4, 3, 24, 24)
    assert item["clips"].dtype == torch.uint8
    assert item["clips"].is_contiguous()
    assert item["row"] == manifest.rows("val")[1]
    assert item["label"] == manifest.labels[item["row"]]
    assert (item["clips"].float().mean() > 128) == (manifest.classes[item["label"]] == "it's bright")


def test_an_item_follows_from_seed_epoch_and_row_alone(dataset, manifest):
    torch.manual_seed(0)
    first = dataset[(2, 5)]["clips"]
    torch.manual_seed(1)
    dataset[(0, 0)]
    again = ClipDataset(manifest, "train", clip=CLIP, views=1, augment=Augment(), seed=3)[(2, 5)]["clips"]
    assert torch.equal(first, again)
    others = [
        dataset[(3, 5)]["clips"],
        ClipDataset(manifest, "train", clip=CLIP, views=1, augment=Augment(flip=False), seed=4)[(2, 5)]["clips"],
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_drawing_an_item_leaves_the_global_generator_alone(dataset):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    dataset[(0, 1)]
    assert torch.equal(torch.rand(1), expected)


def test_a_file_that_goes_bad_is_an_error_item_and_not_replaced(tmp_path):
    for name in ("a", "b"):
        for number in range(2):
            make_clip(tmp_path / "train" / name / f"{number}.mp4")
    manifest = Manifest.from_folder(tmp_path)
    dataset = ClipDataset(manifest, "train", clip=CLIP, views=1, augment=Augment(preset="none"))
    manifest.path(2).write_bytes(b"gone bad")
    batch = next(iter(ClipLoader(dataset, EpochBatchSampler(4, 4, seed=0, shuffle=False), workers=0)))
    assert batch["row"].tolist() == [0, 1, 3]
    assert [row for row, _ in batch["skipped"]] == [2]
    assert "is not a video" in batch["skipped"][0][1]
    with pytest.raises(VideoError, match=r"0.mp4: is not a video"):
        ClipDataset(manifest, "train", clip=CLIP, views=1)


def test_known_bad_files_are_left_out(tmp_path):
    for name in ("a", "b"):
        make_clip(tmp_path / "train" / name / "0.mp4")
    (tmp_path / "train" / "b" / "1.mp4").write_bytes(b"")
    manifest = Manifest.from_folder(tmp_path)
    facts = scan_files(manifest)
    assert list(facts.bad) == [2]
    assert ClipDataset(manifest, "train", clip=CLIP, views=1, facts=facts).rows.tolist() == [0, 1]


def test_a_preset_without_flip_never_mirrors():
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).expand(1, 3, 40, 40)
    keep, mirror = (build_augmentation(Augment(flip=flip), size=32, fit="crop") for flip in (False, True))
    rises = [bool((out := keep(ramp, seed)[0, 0].float())[:, -8:].mean() > out[:, :8].mean()) for seed in range(40)]
    mixed = [bool((out := mirror(ramp, seed)[0, 0].float())[:, -8:].mean() > out[:, :8].mean()) for seed in range(40)]
    assert all(rises)
    assert 8 < sum(mixed) < 32


def test_the_middle_is_cropped_alike_for_none_and_evaluation():
    frames = torch.randint(0, 255, (2, 3, 37, 50), dtype=torch.uint8)
    assert torch.equal(
        build_augmentation(Augment(preset="none"), size=32, fit="crop")(frames, 9), center_crop(frames, 32)
    )


def test_draws_differ_between_seeds_epochs_rows_and_views():
    draws = {draw_seed(*key) for key in np.ndindex(3, 3, 50, 3)}
    assert len(draws) == 3 * 3 * 50 * 3


def test_without_augmentation_training_sees_the_very_picture_of_evaluation(manifest):
    """Frames are random within their segments; with one frame in each segment they are always the same."""
    clip = CLIP.model_copy(update={"sampling": "uniform"})
    trained = ClipDataset(manifest, "train", clip=clip, views=1, augment=Augment(preset="none"))
    evaluated = ClipDataset(manifest, "train", clip=clip, views=1, facts=trained.facts)
    for position in range(len(trained)):
        assert torch.equal(trained[position]["clips"], evaluated[position]["clips"])


def test_without_views_an_item_is_one_clip_and_the_data_set_says_its_shape(manifest):
    dataset = ClipDataset(manifest, "val", clip=CLIP)
    assert dataset[1]["clips"].shape == dataset.shape == (CLIP.num_frames, 3, CLIP.size, CLIP.size)
    with_views = ClipDataset(manifest, "val", clip=CLIP, views=2)
    assert with_views[1]["clips"].shape == with_views.shape == (2, *dataset.shape)
    assert torch.equal(ClipDataset(manifest, "val", clip=CLIP, views=1)[1]["clips"][0], dataset[1]["clips"])
    size = f"T={CLIP.num_frames}, C=3, H={CLIP.size}, W={CLIP.size}"
    assert repr(dataset) == f'ClipDataset(val, {len(dataset)} items: {{"clips": uint8 ({size}), "label", "row"}})'
    assert f"uint8 (V=2, {size})" in repr(with_views)


def epoch_of(manifest, **kwargs):
    loader = DataLoader(ClipDataset(manifest, "train", clip=CLIP, augment=Augment()), batch_size=2, **kwargs)
    return torch.cat([batch["clips"] for batch in loader])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_data_loader_draws_anew_in_each_epoch_and_repeats_by_the_seed_of_pytorch(manifest, workers):
    torch.manual_seed(0)
    first, second = epoch_of(manifest, num_workers=workers), epoch_of(manifest, num_workers=workers)
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.manual_seed(0)
    assert torch.equal(epoch_of(manifest, num_workers=workers), first)


def test_by_position_an_unreadable_file_is_an_error_and_by_epoch_it_is_listed(manifest):
    dataset = ClipDataset(manifest, "train", clip=CLIP)
    dataset.manifest = replace(manifest, paths=np.char.add(manifest.paths, b".gone"))
    with pytest.raises(VideoError, match="gone"):
        dataset[0]
    assert "gone" in dataset[(0, 0)]["error"]


def test_a_data_set_without_a_size_says_what_to_give(manifest):
    with pytest.raises(RecipeError, match=r"needs the size of clips in pixels; for example ft.Clip\(size=224\)"):
        ClipDataset(manifest, "train", clip=Clip(num_frames=2))
