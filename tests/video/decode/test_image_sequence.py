"""A folder of numbered images is read as the video of these frames, and only the images asked for are opened."""

import os
import shutil

import cv2
import numpy as np
import pytest
from grey import grey_frames, level_of, make_clip, make_images
from PIL import Image, ImageOps

from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.recipe.schema import Clip
from finetune.video.dataset import ClipDataset
from finetune.video.decode.clip_files import stamp
from finetune.video.decode.probe import frame_times, probe
from finetune.video.decode.read import read_frames
from finetune.video.fingerprints import exact_duplicates
from finetune.video.pack.read import Pack
from finetune.video.pack.write import pack
from finetune.video.probe_files import inspect_files, scan_files


def test_its_frames_are_its_images_in_the_order_of_their_numbers(tmp_path):
    folder = make_images(tmp_path / "v", 12, name="img_{}.png", first=7, size=24)
    info = probe(folder)
    assert (info.num_frames, info.counted, info.width, info.height) == (12, "images", 24, 24)
    assert (info.fps, info.duration_seconds, info.reliable_timestamps) == (0.0, 0.0, False)
    frames_TCHW, seconds = read_frames(folder, [11, 0, 3, 3])
    assert level_of(frames_TCHW) == [11, 0, 3, 3] and frames_TCHW.shape == (4, 3, 24, 24)
    assert np.isnan(seconds).all() and np.isnan(frame_times(folder)).all() and len(frame_times(folder)) == 12


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff", "ppm"])
def test_an_image_is_the_same_in_a_folder_as_by_itself(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3)).astype(np.uint8)
    for number, picture in enumerate(noise):
        cv2.imwrite(str(tmp_path / f"{number}.{suffix}"), picture)
    alone, _ = read_frames(tmp_path / f"1.{suffix}", [0], size=(20, 30))
    np.testing.assert_array_equal(read_frames(tmp_path, [1], size=(20, 30))[0], alone)


def test_only_the_images_asked_for_are_read(tmp_path):
    folder, asked = make_images(tmp_path / "v", 30), [1, 5, 9, 13, 17, 21, 25, 29]
    for number in set(range(30)) - set(asked):
        (folder / f"img_{number + 1:05}.png").write_bytes(b"no image")
    assert level_of(read_frames(folder, asked)[0]) == asked
    with pytest.raises(VideoError, match=r"v: img_00011\.png: cannot be decoded"):
        read_frames(folder, [9, 10])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "img_00008.png").write_bytes(b""), "v: img_00008.png: is empty"),
        (lambda folder: (folder / "img_00001.png").write_bytes(b"no image"), "v: img_00001.png: cannot be decoded"),
        (lambda folder: make_images(folder, 1, first=8, size=40), "img_00001.png 32 x 32 and img_00008.png 40 x 40"),
        (lambda folder: make_images(folder, 3, name="b_{}.png"), r"holds b_\*.png, img_\*.png, which are not the"),
        (lambda folder: make_clip(folder / "a.mp4"), r"holds img_\*.png, a.mp4"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "v: is a folder without images"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path, spoil, words):
    folder = make_images(tmp_path / "v")
    spoil(folder)
    with pytest.raises(VideoError, match=words):
        probe(folder)
    (look,) = inspect_files([folder], seconds=60)
    assert isinstance(look, VideoError)


def test_a_link_to_nothing_is_named(tmp_path):
    folder = make_images(tmp_path / "v")
    (folder / "img_00009.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(VideoError, match=r"v: img_00009\.png: there is no such file"):
        probe(folder)
    assert stamp(folder)[0] > 0


def test_an_image_of_another_size_is_refused_when_it_is_read(tmp_path):
    folder = make_images(tmp_path / "v")
    make_images(folder, 1, first=4, size=40)
    with pytest.raises(VideoError, match=r"differ in size: img_00001.png 32 x 32 and img_00004.png 40 x 40 pixels"):
        read_frames(folder, [0, 3], size=(16, 16))


def test_a_change_of_any_image_changes_the_stamp(tmp_path):
    folder = make_images(tmp_path / "v")
    stamps = {stamp(folder)}
    os.utime(folder / "img_00003.png", ns=(1, 1))
    stamps.add(stamp(folder))
    (folder / "img_00008.png").rename(folder / "img_00009.png")
    stamps.add(stamp(folder))
    (folder / "img_00009.png").unlink()
    stamps.add(stamp(folder))
    assert len(stamps) == 4
    (folder / "notes.txt").write_text("no image")
    assert stamp(folder) in stamps


def test_folders_with_the_same_images_are_copies(tmp_path):
    one, other = make_images(tmp_path / "a"), make_images(tmp_path / "b", first=100)
    third = make_images(tmp_path / "c", start=17)
    assert exact_duplicates([one, third, other, make_clip(tmp_path / "d.mp4")]) == [[0, 2]]


@pytest.fixture
def manifest(tmp_path):
    """Two videos as folders of 20 images and two as files, one of each in a class."""
    for name in ("a", "b"):
        make_images(tmp_path / "train" / name / "images", 20)
        make_clip(tmp_path / "train" / name / "file.mp4", 20)
    return Manifest.from_folder(tmp_path)


@pytest.mark.parametrize("clip", [Clip(num_frames=4, size=24), Clip(num_frames=4, sampling="dense", size=24)])
def test_clips_of_a_folder_are_those_of_the_video_of_its_images(manifest, clip):
    dataset = ClipDataset(manifest, "train", clip=clip, views=2)
    file, images = dataset[0]["clips"], dataset[1]["clips"]
    assert manifest.path(1).name == "images" and images.shape == file.shape
    assert (images.float() - file.float()).abs().max() <= 2  # H.264 loses a little


def test_the_rate_is_the_manifests(manifest):
    from dataclasses import replace

    clip = Clip(num_frames=4, sampling="fps", fps=5, size=24)
    levels = {}
    for rate in (25.0, 5.0, 10.0):
        at_rate = replace(manifest, image_rate=rate)
        facts = scan_files(at_rate)
        assert facts.rates.tolist() == [25, rate, 25, rate]
        assert facts.seconds.tolist() == [0.8, 20 / rate, 0.8, 20 / rate]
        dataset = ClipDataset(at_rate, "train", clip=clip, views=1, facts=facts)
        levels[rate] = level_of(dataset[1]["clips"][0].numpy())
    assert levels[25.0] == level_of(dataset[0]["clips"][0].numpy())
    assert np.diff(levels[25.0]).tolist() == [5, 5, 5]
    assert np.diff(levels[10.0]).tolist() == [2, 2, 2]
    assert np.diff(levels[5.0]).tolist() == [1, 1, 1]


def test_facts_of_a_folder_are_kept_until_one_of_its_images_changes(manifest):
    from finetune.video.file_facts import FactsCache

    scan_files(manifest)
    assert FactsCache(manifest.source, manifest.paths).unknown(timed=np.zeros(4, dtype=bool)) == []
    make_images(manifest.path(3), 1, first=21)
    assert FactsCache(manifest.source, manifest.paths).unknown(timed=np.zeros(4, dtype=bool)) == [3]
    assert scan_files(manifest).num_frames.tolist() == [20, 20, 20, 21]


@pytest.mark.parametrize("frames", [None, 6])
def test_a_pack_holds_the_images_and_their_rate_stays_the_manifests(manifest, tmp_path, frames):
    result = pack(manifest, tmp_path / "pack", short_side=32, frames=frames)
    assert (result.packed, result.bad) == (4, {})
    images, clip = manifest.path(1), Clip(num_frames=3, sampling="fps", fps=5, size=32)
    packed, expected = (
        Pack(tmp_path / "pack"),
        read_frames(images, range(20) if frames is None else [1, 5, 8, 11, 15, 18]),
    )
    count = len(expected[0])
    difference = packed.read_frames(images, range(count))[0].astype(int) - expected[0]
    assert np.abs(difference).max() <= 2
    dataset = ClipDataset(manifest, "train", clip=clip, views=1, packed=tmp_path / "pack")
    assert len(dataset[1]["clips"][0]) == 3
    if frames is None:
        assert np.diff(level_of(dataset[1]["clips"][0].numpy())).tolist() == [5, 5]
    make_images(images, 1, start=100)
    assert pack(manifest, tmp_path / "pack", short_side=32, frames=frames).packed == 1


def test_a_close_look_has_the_rate_that_is_given(tmp_path):
    folder = make_images(tmp_path / "v", 12)
    (look,) = inspect_files([folder], seconds=60, image_rate=6)
    assert (look.info.fps, look.info.duration_seconds) == (6, 2.0)
    assert look.file_bytes == sum(image.stat().st_size for image in folder.iterdir())
    assert [int(picture.mean()) for picture in look.pictures_5SS[::2]] == [16, 58, 93]
    assert grey_frames(12)[6].mean() == 58


def test_each_image_is_upright_by_its_own_exif(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (8, 24, 24, 3)).astype(np.uint8)
    for number, picture in enumerate(pictures, start=1):
        exif = Image.Exif()
        exif[0x0112] = number
        Image.fromarray(picture).save(tmp_path / f"{number}.png", exif=exif)
    upright = [np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"{number}.png"))) for number in range(1, 9)]
    np.testing.assert_array_equal(read_frames(tmp_path, range(8))[0].transpose(0, 2, 3, 1), np.stack(upright))
    Image.fromarray(pictures[0][:16]).save(tmp_path / "1.png")
    Image.fromarray(pictures[0][:16]).save(tmp_path / "6.png", exif=exif)
    with pytest.raises(VideoError, match=r"its images differ in size: 1.png 24 x 16 and 6.png 16 x 24 pixels"):
        read_frames(tmp_path, [0, 5], size=(12, 12))
