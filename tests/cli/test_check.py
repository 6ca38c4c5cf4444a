import csv
import json
import os
import re
from functools import partial

import pytest
from scenes import make_bad_files, make_scene


@pytest.fixture
def check(finetune, monkeypatch, tmp_path):
    """Run `finetune check` in an empty folder; (exit status, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return partial(finetune, "check")


@pytest.fixture
def folder(tmp_path):
    for split, number in (("train", 5), ("val", 1), ("test", 1)):
        for label, first in (("a class", 0), ("b", 50)):
            for each in range(number):
                make_scene(tmp_path / "data" / split / label / f"{split} {each}.mp4", first + len(split) * 10 + each)
    return tmp_path / "data"


@pytest.mark.slow
def test_clean_data_ends_with_0_and_a_page_in_the_current_folder(check, folder, tmp_path):
    status, out, _ = check(folder)
    assert status == 0
    assert out.splitlines()[0] == f"{folder}: 14 files, 0 cannot be read"
    (warning,) = (line for line in out.splitlines() if line.startswith(("error", "warning")))
    assert warning.startswith("warning There are no groups, so clips of one person")
    assert out.splitlines()[-1] == "page  check-data.html"
    assert "No errors in 14 files, but 1 warning." in (tmp_path / "here/check-data.html").read_text()
    assert "checking files" not in out


def test_errors_give_status_1_and_the_fixed_rows_status_0(check, folder, tmp_path):
    reasons = make_bad_files(folder / "train/b")
    status, out, _ = check(folder, "--fix", tmp_path / "fixed.csv", "--out", tmp_path / "page.html")
    assert status == 1
    assert "error   5 of 19 files cannot be read. Fix or remove them." in out
    for name, words in reasons.items():
        assert re.search(rf"^ +train/b/{re.escape(name)}: .*{re.escape(words)}", out, flags=re.MULTILINE)
    assert f"fixed {tmp_path / 'fixed.csv'}: 14 of 19 rows kept" in out
    with (tmp_path / "fixed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and set(rows[0]) == {"path", "label", "split"}
    assert check(tmp_path / "fixed.csv", "--out", tmp_path / "pages")[0] == 0
    assert (tmp_path / "page.html").is_file() and (tmp_path / "pages/check.html").is_file()


def test_json_is_all_that_stands_on_stdout(check, folder):
    make_bad_files(folder / "train/b")
    status, out, _ = check(folder, "--json")
    assert status == 1
    result = json.loads(out)
    assert result["findings"][0]["kind"] == "unreadable"
    assert len(result["unreadable"]) == 5 and len(result["files"]) == 19


def test_a_name_that_is_no_utf_8_is_shown_as_far_as_it_can_be(check, folder):
    make_scene(folder / "train/b/x.mp4", 300).rename(folder / "train/b" / os.fsdecode(b"caf\xe9.mp4"))
    (folder / "train/b" / os.fsdecode(b"bad \xe9.mp4")).write_bytes(b"")
    for options in ([], ["--json"]):
        status, out, _ = check(folder, *options, "--out", folder.parent / "page.html")
        assert status == 1
        assert "bad \ufffd.mp4" in out
    assert "caf\ufffd.mp4" in (folder.parent / "page.html").read_text()


def test_a_recipe_says_what_to_check_and_takes_settings(check, folder, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"data: {{folder: {folder}}}\nphases: [{{unfreeze: head}}]\n")
    assert check(recipe)[0] == 0
    status, out, _ = check(recipe, "data.group_pattern=(\\d)\\.mp4$")
    assert status == 1
    assert "group is in more than one split: “0” in train and val and test" in out
    assert check("folder", f"data.folder={folder}")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no recipe, folder or CSV file 'nowhere'"),
        (["foldr"], "(nearest: folder)"),
        (["folder"], "set one of data.manifest=FILE.csv and data.folder=DIR"),
        ([".", "data.vall=0.1"], "unknown key 'data.vall' (nearest: data.val"),
        (["."], "no video or image in this folder"),
        (["folder", "data.folder=nowhere"], "there is no folder 'nowhere'"),
        (["folder", "data.manifest=no.csv"], "there is no manifest 'no.csv'"),
        (["folder", "data.foldr=x"], "unknown key 'data.foldr'"),
        ([".", "--seconds", "0"], "Invalid value"),
    ],
)
def test_a_mistake_is_exit_status_2_and_plain_words(check, arguments, message):
    status, out, err = check(*arguments)
    assert status == 2
    assert message in err and "Traceback" not in err
    assert out == ""


def test_a_page_that_cannot_be_written_is_said(check, folder, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = check(folder, "--out", tmp_path / "file" / "page.html")
    assert status == 2
    assert "page.html: cannot be written" in err


@pytest.mark.slow
@pytest.mark.real
def test_every_real_odd_file_that_cannot_be_read_is_named(check, real):
    status, out, _ = check(real / "data/odd", "--seconds", 120)
    assert status == 1
    assert "error   10 of 52 files cannot be read." in out
    for line in (
        "XX.flv: is a Git-LFS pointer",
        "corrupted.mp4: is damaged or cut off: it lists 50 frames, but cannot be decoded after frame 28",
        "afconvert-aac-0.5s.mp4: holds only audio",
        "cenc-video-key1-init.mp4: is encrypted",
        "nonfragment_header.mp4: is cut off: its index lists 25 frames, only 0 are in the file",
        "__video2.mp4: is not a video, or is cut off",
        "ImgVideo.mp4: holds no video stream",
    ):
        assert line in out
    assert "2 × not a video or image (.csv, .wav)" in out
    status, out, _ = check(real / "data/odd/clips.csv", "--seconds", 120)
    assert status == 1
    assert "11 of 54 files cannot be read" in out and "“file” was read instead" in out


@pytest.mark.slow
@pytest.mark.real
def test_that_pointing_is_filmed_upright_is_said_and_of_the_yoga_poses_nothing(check, real):
    status, out, _ = check(real / "data/ut_interaction/clips.csv", "--seconds", 120)
    assert status == 0
    assert "the shape of a clip alone predicts the class with a balanced accuracy of 4" in out
    assert "“pointing” (recall 100\u00a0%, portrait: width ÷ height 0.664, others 1.41)" in out
    assert all(words not in out for words in ("duplicates", "the same video", "the same scene"))
    assert "mark in the picture" not in out and "background" not in out
    status, out, _ = check(real / "data/yoga_poses/clips.csv", "--seconds", 120)
    assert status == 0
    assert "No problems found." in out
