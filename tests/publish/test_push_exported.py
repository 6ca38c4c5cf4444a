"""Publishing an exported model: it predicts the same numbers from the hub, and names no clip."""

import html
import json
import shutil
from importlib.util import find_spec

import pytest

import finetune as ft
from finetune.errors import RunError
from finetune.publish.card import model_card
from finetune.publish.push import public_files, push

pytestmark = [
    pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.slow,
]
SPLIT = {
    "split": "test",
    "clips": 4,
    "skipped": 0,
    "allowed": 1,
    "largest_difference": {"label": 0.1},
    "different": {"label": [{"clip": "/home/anna/clip.mp4", "run": "a", "exported": "b"}]},
}


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """An exported model outside of its run, one of whose predictions differs from the run's."""
    from finetune.export.export_run import export_run
    from finetune.export.settings import ExportSettings

    run = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(trained_run, run)
    folder = run.with_name("exported-model")
    export_run(ft.open_run(run), ExportSettings("openvino", out=folder, check="batches"), progress=lambda *_: None)
    info = json.loads((folder / "model.json").read_text())
    info["parity"]["split"] = SPLIT
    info["figures"] = {
        "split": "test",
        "clips": 4,
        "tasks": {"label": {"top1": {"value": 0.5, "interval": [0.1, 0.9]}}},
    }
    cost = {"metric": "accuracy", "run": 0.5, "int8": 0.25, "difference": -0.25, "interval": [-0.5, 0.1]}
    moved = {"metric": "moved", "run": None, "int8": None, "difference": 0.01, "interval": None}
    info["int8"] = {
        "method": "of the test",
        "recipe": "default",
        "calibration_clips": 8,
        "split": "test",
        "cost": {"label": cost, "speed": moved},
        "bytes": 1000,
        "fp32_bytes": 4000,
    }
    (folder / "model.json").write_text(json.dumps(info))
    return folder


def test_it_predicts_the_same_numbers_and_names_no_clip(exported, hub, clip_folder):
    push(public_files(exported, model_card(exported, repo="me/exported")), "me/exported")
    files = hub.files("me/exported")
    assert set(files) == {
        *("README.md", "recipe.yaml", "classes.json", "model.json", "model.xml", "model.bin", "read_clip.py")
    }
    assert not [name for name, data in files.items() if b"anna" in data or str(clip_folder).encode() in data]
    video = clip_folder / "test" / "dark ones" / "0.mp4"
    here, there = (ft.predict(folder, [video]) for folder in (exported, "hf://me/exported"))
    assert [one.top_k for one in here] == [one.top_k for one in there]


def test_its_card_has_the_figures_that_model_json_has(exported):
    card = model_card(exported)
    assert "openvino" in card and "on 4 test clips, 1 of 4 predictions differ from the run's" in card
    assert "| `label` | top-1 accuracy | 0.500 | 0.100 to 0.900 |" in card
    assert "- the accuracy of label changes by -25 points (95 % interval -50 to +10)" in html.unescape(card)
    assert "- predictions of speed move by +0.01 of their spread" in html.unescape(card)
    assert "pip install openvino av numpy" in card and "anna" not in card


def test_a_pt2_file_is_not_published(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "torch")
    info = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(info | {"runtime": "torch", "file": "model.pt2"}))
    with pytest.raises(RunError, match="is a .pt2 file, which can hold code"):
        public_files(folder, "card")
