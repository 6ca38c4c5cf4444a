"""The example clips of a page. It reads only valid pictures of the run folder, which may come from anyone."""

import base64
import json
import os

import numpy as np
import pytest
from report.run.test_page import shown, write_run

from finetune.report.run.clips_section import clips_context, common_root, relative_to_root
from finetune.report.run.task_section import task_context
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import PredictionRow
from finetune.video.encode import encode_jpeg

NAME = "0123456789abcdef"
JPEG = encode_jpeg(np.zeros((3, 16, 16), np.uint8))


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def the_clip(pictures, **entry):
    (pictures / "index.json").write_text(json.dumps({"/c/x.mp4": entry}))
    predictions = [PredictionRow("/c/x.mp4", "a", "b", 0.7, {"b": 0.7, "a": 0.3}, "")]
    return clips_context(predictions, EvaluationFolder(pictures.parent), multilabel=False)["mistakes"][0]


def picture(pictures, name):
    return the_clip(pictures, sheet=name, frames=1)["sheet"]


@pytest.mark.parametrize("name", [f"{NAME}.jpg", f"{NAME}-cam.jpg"])
def test_a_picture_is_put_into_the_page_byte_for_byte(pictures, name):
    (pictures / name).write_bytes(JPEG)
    assert picture(pictures, name) == "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()


@pytest.mark.parametrize(
    "name",
    [
        *("secret.jpg", f"../{NAME}.jpg", f"/etc/{NAME}.jpg", f"{NAME}.png", f"{NAME[:-1]}.jpg", f"{NAME}.jpg\n"),
        *(f"{NAME.upper()}.jpg", f"{NAME}-cam-cam.jpg", f"sub/{NAME}.jpg", "", None, 5, ["x"], {"a": 1}),
    ],
)
def test_no_other_name_is_opened(pictures, name):
    (pictures / "sub").mkdir()
    names = [f"{NAME}.png", "secret.jpg", f"sub/{NAME}.jpg", f"../{NAME}.jpg", f"{NAME}.jpg\n", f"{NAME[:-1]}.jpg"]
    for file in [*names, f"{NAME.upper()}.jpg", f"{NAME}-cam-cam.jpg"]:
        (pictures / file).write_bytes(JPEG)
    assert picture(pictures, name) is None


def test_no_link_no_pipe_no_folder_is_followed(pictures):
    secret = pictures.parent / "secret"
    secret.write_bytes(JPEG)
    (pictures / f"{NAME}.jpg").symlink_to(secret)
    assert picture(pictures, f"{NAME}.jpg") is None
    os.mkfifo(pictures / f"{NAME}-cam.jpg")
    assert picture(pictures, f"{NAME}-cam.jpg") is None  # to read it would wait for ever
    (pictures / f"{NAME[::-1]}.jpg").mkdir()
    assert picture(pictures, f"{NAME[::-1]}.jpg") is None
    assert picture(pictures, "f" * 16 + ".jpg") is None  # not there


@pytest.mark.parametrize(
    ("content", "is_shown"),
    [
        (JPEG + bytes(400_000 - len(JPEG)), True),
        (JPEG + bytes(400_001 - len(JPEG)), False),
        (b"<svg onload='alert(1)'/>", False),
        (b"\x89PNG\r\n", False),
        (b"", False),
    ],
)
def test_only_jpegs_of_a_size_that_a_page_can_hold(pictures, content, is_shown):
    (pictures / f"{NAME}.jpg").write_bytes(content)
    assert (picture(pictures, f"{NAME}.jpg") is not None) is is_shown


@pytest.mark.parametrize("frames", [-1, 0, 65, 10**12, "9" * 20, None, [1], {"a": 1}, 2.5])
def test_a_number_of_frames_that_no_sheet_has_is_none(pictures, frames):
    assert the_clip(pictures, frames=frames)["frames"] == 0


@pytest.mark.parametrize(
    "weights",
    [["a"], [0, 0], [-1, 2], "0.5", 5, {"a": 1}, [None], [1e999], [0.1] * 65, [float("nan")], [[0.5]], [0.5, "x"]],
)
def test_weights_that_are_no_shares_are_none(pictures, weights):
    assert the_clip(pictures, weights=weights)["weights"] == []
    assert the_clip(pictures, weights=[0.25, 0.75])["weights"] == [0.25, 0.75]


@pytest.mark.parametrize("index", ["[]", "5", "null", "{", '{"/c/x.mp4": 5}', '{"/c/x.mp4": ["cam"]}', "[" * 100_000])
def test_an_index_that_is_none_leaves_a_page_without_pictures(pictures, index):
    (pictures / "index.json").write_text(index)
    predictions = [PredictionRow("/c/x.mp4", "a", "b", 0.7, {}, "")]
    context = clips_context(predictions, EvaluationFolder(pictures.parent), multilabel=False)
    assert (context["pictures"], context["explained"], context["attended"]) == (False, False, False)
    assert context["mistakes"][0]["sheet"] is None


def test_the_page_of_a_run_with_odd_pictures_shows_the_good_ones_alone(tmp_path):
    write_run(tmp_path, wrong=0.2)
    folder = tmp_path / "evaluation/pictures"
    folder.mkdir()
    (folder / f"{NAME}.jpg").write_bytes(JPEG)
    secret = folder / ("f" * 16 + ".jpg")
    secret.symlink_to("/etc/hostname")
    paths = [clip["path"] for clip in clips_of(tmp_path)]
    index = {path: {"sheet": secret.name, "frames": "x", "weights": [0], "cam": "<b>"} for path in paths}
    index[paths[0]] = {"sheet": f"{NAME}.jpg", "frames": 3, "weights": [0.5, 0.25, 0.25], "cam": f"{NAME}.jpg"}
    (folder / "index.json").write_text(json.dumps(index))
    page = shown(tmp_path)
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert {image["src"] for image in images} == {"data:image/jpeg;base64," + base64.b64encode(JPEG).decode()}
    assert {(image["width"], image["height"]) for image in images} == {("340", "112")}
    assert page.tags["b"] and "attention weights of the frames: 50 % 25 % 25 %" in " ".join(
        attributes.get("aria-label", "").replace("\u00a0", " ") for _, attributes in page.elements
    )


def clips_of(run):
    from finetune.evaluation.choose_clips import choose_clips
    from finetune.run.predictions_csv import read_prediction_rows

    return [
        {"path": row.path} for row in choose_clips(read_prediction_rows(run / "evaluation"), multilabel=False).mistakes
    ]


@pytest.mark.parametrize(
    ("paths", "root", "left"),
    [
        (["/d/a/1.mp4", "/d/b/2.mp4"], "/d", ["a/1.mp4", "b/2.mp4"]),
        (["/d/a/1.mp4", "/d/a/2.mp4"], "", ["/d/a/1.mp4", "/d/a/2.mp4"]),
        (["/a/1.mp4", "/b/2.mp4"], "", ["/a/1.mp4", "/b/2.mp4"]),
        (["a/1.mp4", "/b/2.mp4"], "", ["a/1.mp4", "/b/2.mp4"]),
        ([], "", []),
    ],
)
def test_paths_are_relative_to_the_folder_that_contains_all_of_them(paths, root, left):
    predictions = [PredictionRow(path, "a", "a", 1.0, {}, "") for path in paths]
    assert common_root(predictions) == root
    assert [relative_to_root(root, path) for path in paths] == left


def test_the_clips_of_a_cell_are_listed_with_the_most_confident_first(tmp_path):
    results = write_run(tmp_path, wrong=0.3)
    from finetune.run.predictions_csv import read_prediction_rows

    predictions = read_prediction_rows(tmp_path / "evaluation")
    cell_clips = task_context("label", results, predictions)["cell_clips"]
    table = results["tasks"]["label"]["confusion"]
    listed = {tuple(map(int, cell.split(","))): paths for cell, paths in cell_clips["cells"].items()}
    assert {cell: len(paths) for cell, paths in listed.items()} == {
        (true, predicted): number for true, row in enumerate(table) for predicted, number in enumerate(row) if number
    }
    confidence = {relative_to_root("data", row.path): row.probability for row in predictions}
    for paths in listed.values():
        assert [confidence[path] for path in paths] == sorted((confidence[path] for path in paths), reverse=True)
