"""Videos are found by their names, wherever they were annotated; what is missing or ambiguous is named."""

from pathlib import Path

import pytest

from finetune.annotations.find_videos import VideoFolder, local_path, path_parts
from finetune.errors import DataError

FILES = (
    "rec1.mp4",
    "day 1/talk.mp4",
    "day 2/talk.mp4",
    "day 2/Härte.MOV",
    "v_abc.mkv",
    "one.two.avi",
    "frames/walk/img_1.jpg",
    "frames/walk/img_2.jpg",
    "notes.txt",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return VideoFolder.scan(root)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rec1.mp4", "rec1.mp4"),
        ("rec1", "rec1.mp4"),
        ("rec1.avi", "rec1.mp4"),
        ("rec1.wav", "rec1.mp4"),
        ("REC1.MP4", "rec1.mp4"),
        (r"C:\Users\ann\Videos\rec1.mp4", "rec1.mp4"),
        ("/home/ann/videos/rec1.mkv", "rec1.mp4"),
        ("file:///C:/Users/ann/rec1.mp4", "rec1.mp4"),
        ("file:///home/ann/H%C3%A4rte.mov", "day 2/Härte.MOV"),
        ("härte", "day 2/Härte.MOV"),
        ("/data/upload/12/0a1b2c3d-rec1.mp4", "rec1.mp4"),
        ("/data/local-files/?d=videos%2Frec1.mp4", "rec1.mp4"),
        ("https://there.example/a/rec1.mp4?token=1", "rec1.mp4"),
        ("rec1.en", "rec1.mp4"),
        ("abc", "v_abc.mkv"),
        ("one.two", "one.two.avi"),
        ("walk", "frames/walk"),
        ("E:/day 2/talk.mp4", "day 2/talk.mp4"),
        (r"D:\day 1\talk.avi", "day 1/talk.mp4"),
    ],
)
def test_a_video_is_found_by_the_last_part_of_its_path(folder, name, found):
    assert folder.find(name) == folder.folder / found


def test_several_videos_of_one_name_are_an_error_that_lists_them(folder):
    with pytest.raises(DataError, match="2 videos in .* have this name: day 1/talk.mp4, day 2/talk.mp4; give its path"):
        folder.find("talk.mp4")


@pytest.mark.parametrize("name", ["rec2.mp4", "", "/", "..", "x" * 5000, "notes.txt", "a\0b", "?d="])
def test_a_missing_video_is_an_error(folder, name):
    with pytest.raises(DataError, match="not found in"):
        folder.find(name)


def test_the_nearest_names_are_suggested(folder):
    with pytest.raises(DataError, match=r"\(nearest: rec1"):
        folder.find("rec11.mp4")


def test_videos_directly_in_a_folder_are_those_without_subfolders(folder):
    assert set(VideoFolder.scan(folder.folder, subfolders=False).by_name) >= {"rec1", "v_abc.mkv"}
    assert "talk" not in VideoFolder.scan(folder.folder, subfolders=False).by_name
    with pytest.raises(DataError, match="does not exist"):
        VideoFolder.scan(Path("nowhere"))


def test_paths_of_other_systems_and_urls_have_parts():
    assert path_parts(r"C:\a b\..\c.mp4") == ["C:", "a b", "c.mp4"]
    assert path_parts("what?.mp4") == ["what?.mp4"]
    assert local_path("file:///home/a%20b/c.mp4") == "/home/a b/c.mp4"
