import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from grey import make_clip, make_images

import finetune as ft
from finetune.video.decode.read import read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("one") / "a.mp4", 9)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 255, (7, 40, 60, 3), dtype=np.uint8)


def numbers(predictions):
    return [each.top_k for each in predictions]


def test_one_path_is_one_video_as_text_and_as_a_path(trained_run, clip):
    (expected,) = ft.predict(trained_run, [clip])
    assert ft.predict(trained_run, str(clip)) == ft.predict(trained_run, clip) == [expected]
    assert ft.predict(trained_run, clip.parent) == ft.predict(str(trained_run), iter([clip])) == [expected]


def test_frames_in_memory_give_the_numbers_of_the_same_images_in_a_folder(trained_run, frames, tmp_path):
    folder = make_images(tmp_path / "clip", 7)
    for image, frame in zip(sorted(folder.iterdir()), frames, strict=True):
        cv2.imwrite(str(image), frame[..., ::-1])
    expected = ft.predict(trained_run, folder, views=2, image_sequences=True)
    array = ft.predict(trained_run, frames, views=2)
    tensor = ft.predict(trained_run, [torch.from_numpy(frames)], views=2)
    assert numbers(array) == numbers(tensor) == numbers(expected)
    assert str(array[0].path) == "frames[0]"


def test_paths_and_arrays_are_predicted_in_their_order(trained_run, clip, frames):
    decoded = read_frames(clip, range(9))[0].transpose(0, 2, 3, 1)
    found = ft.predict(trained_run, [frames, clip, decoded])
    assert [str(each.path) for each in found] == ["frames[0]", str(clip), "frames[2]"]
    assert found[1].top_k[0][1] == pytest.approx(found[2].top_k[0][1], abs=0.02)


def test_a_loaded_model_predicts_like_its_run(trained_run, clip):
    model = ft.load(trained_run).train()
    assert ft.predict(model, clip) == ft.predict(trained_run, clip)


def test_a_model_without_a_run_is_refused(clip):
    model = ft.build_model("test_resnet", ["a", "b"], weights="none", num_frames=2, size=32)
    with pytest.raises(ft.RunError, match="has no run folder, .* take one from fit or load"):
        ft.predict(model, clip)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((4, 3, 32, 32), np.uint8), r"\(4, 3, 32, 32\); move the channels to the end"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), "give several videos as a list"),
        (np.zeros((32, 32, 3), np.uint8), "stack the frames of a video into one array"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"have the shape \(T, H, W, 3\); this is \(0, 32, 32, 3\)"),
        (np.zeros((4, 32, 32, 3), np.float32), "0 to 255 as uint8; these are float32"),
    ],
)
def test_frames_of_another_shape_or_type_are_refused(trained_run, frames, reason):
    with pytest.raises(ft.DataError, match=rf"frames\[0\]: .*{reason}"):
        ft.predict(trained_run, frames)
    assert list(map(str, ft.predict(trained_run, [frames], on_error="skip").skipped)) == ["frames[0]"]


def test_what_is_neither_a_path_nor_frames_is_refused(trained_run):
    with pytest.raises(ft.ArgumentError, match="videos is 3; it takes str, Path, ndarray, Tensor or a list of"):
        ft.predict(trained_run, 3)


def test_a_run_that_samples_by_time_needs_the_frame_rate_of_arrays(trained_run, frames, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    recipe = run / "recipe.yaml"
    text = re.sub(r"\n  sampling: \w+", "\n  sampling: fps", recipe.read_text())
    recipe.write_text(text.replace("\n  fps: null", "\n  fps: 10"))
    with pytest.raises(ft.RunError, match="samples frames by time .* give the frame_rate of the arrays"):
        ft.predict(run, frames)
    slow, fast = (numbers(ft.predict(run, frames, frame_rate=rate)) for rate in (10, 40))
    assert slow != fast
