"""By its names alone a folder is the frames of one video, clips apart, or neither for sure."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.storage.numbered_images import describe_unclear, folder_kind, frame_names, group_into_clips

ONE_VIDEO = {
    "UCF101 and TSN": ["img_00001.jpg", "img_00002.jpg", "img_00003.jpg"],
    "Something-Something": ["00001.jpg", "00002.jpg", "00003.jpg"],
    "no zeros in front": ["frame2.png", "frame10.png", "frame100.png"],
    "from 0, with gaps": ["0.bmp", "7.bmp", "12.bmp"],
    "the video's name in front": ["v_Run_g01_c01_0001.jpg", "v_Run_g01_c01_0002.jpg"],
    "a number after it": ["frame_1_of_300.jpg", "frame_2_of_300.jpg"],
    "their times behind": ["frame_1_0.04.jpg", "frame_2_0.08.jpg", "frame_3_0.08.jpg"],
    "endings written in two ways": ["IMG_0001.JPG", "img_0002.jpeg"],
    "a burst over the minute": ["2026-03-04_12-30-59.jpg", "2026-03-04_12-31-00.jpg"],
    "a camera trap over days": ["20260304_123059.jpg", "20260304_123159.jpg", "20260305_123059.jpg"],
    "spaces and brackets": ["photo (1).webp", "photo (2).webp"],
    "optical flow beside them": ["img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg"],
}
UNCLEAR = {
    "two cameras": ["cam1_001.jpg", "cam1_002.jpg", "cam2_001.jpg", "cam2_002.jpg"],
    "masks beside the images": ["1.jpg", "2.jpg", "1.png", "2.png"],
    "a picture more": ["img_1.jpg", "img_2.jpg", "img_3.jpg", "cover.jpg"],
    "the video beside its frames": ["img_1.jpg", "img_2.jpg", "video.mp4"],
    "one number twice": ["img_1.jpg", "img_01.jpg", "img_2.jpg"],
    "nothing but flow": ["flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg", "flow_y_2.jpg"],
}
APART = {
    "one image": ["img_1.jpg"],
    "names": ["cat.jpg", "dog.jpg", "mouse.jpg"],
    "digests": ["3f9a.jpg", "b17c.jpg", "77de.jpg"],
    "videos": ["1.mp4", "2.mp4", "3.mp4"],
    "videos and numbered thumbnails": ["1.mp4", "2.mp4", "3.mp4", "thumb_1.jpg", "thumb_2.jpg"],
    "mostly names": ["cat.jpg", "dog.jpg", "mouse.jpg", "img_1.jpg", "img_2.jpg"],
}


@pytest.mark.parametrize("names", ONE_VIDEO.values(), ids=ONE_VIDEO)
def test_numbered_images_are_one_video_whatever_their_order_on_the_disk(names):
    for seed in range(4):
        shuffled = Random(seed).sample(names, len(names))
        assert folder_kind(shuffled) == "sequence"
        assert frame_names(shuffled) == [name for name in names if not name.startswith("flow")]


@pytest.mark.parametrize("names", UNCLEAR.values(), ids=UNCLEAR)
def test_what_may_be_frames_with_something_else_is_unclear(names):
    assert folder_kind(names) == "unclear"


@pytest.mark.parametrize("names", APART.values(), ids=APART)
def test_other_images_and_videos_are_clips_apart(names):
    assert folder_kind(names) == "apart"


def test_what_is_unclear_is_said_by_name():
    assert describe_unclear(UNCLEAR["two cameras"]) == (
        "holds cam1_*.jpg, cam2_*.jpg, which are not the numbered frames of one video"
    )
    assert "cover.jpg, img_*.jpg" in describe_unclear(UNCLEAR["a picture more"])
    assert "img_*.jpg, video.mp4" in describe_unclear(UNCLEAR["the video beside its frames"])
    assert describe_unclear(["f1.jpg", "f01.jpg", "f2.jpg"]) == "holds several f*.jpg with the same number"
    assert "a.jpg, b.jpg, c.jpg and 2 more" in describe_unclear([f"{letter}.jpg" for letter in "abcde"])


@given(numbers=st.sets(st.integers(0, 10**9), min_size=2, max_size=40), width=st.integers(0, 12))
def test_frames_are_in_the_order_of_their_numbers(numbers, width):
    names = [f"clip 7_{number:0{width}}.jpg" for number in numbers]
    assert folder_kind(names) == "sequence"
    assert frame_names(names) == [f"clip 7_{number:0{width}}.jpg" for number in sorted(numbers)]


def test_a_folder_takes_the_place_of_its_frames_and_what_lies_apart_stays():
    frames = [Path(f"run/v{video}/img_{number}.jpg") for video in (1, 2) for number in range(3)]
    loose = [Path(f"run/img_{number}.jpg") for number in range(3)]
    clips, unclear = group_into_clips([*frames, *loose, Path("run/v3.mp4")], apart={Path("run")})
    assert clips == [*loose, Path("run/v1"), Path("run/v2"), Path("run/v3.mp4")] and unclear == []
    clips, unclear = group_into_clips([*frames, Path("run/v1/notes.mp4")])
    assert clips == [*frames[:3], Path("run/v1/notes.mp4"), Path("run/v2")]
    assert unclear == ["run/v1: holds img_*.jpg, notes.mp4, which are not the numbered frames of one video"]
