"""`finetune export` keeps a folder only if the written model predicts what its run predicts."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.export import export_run as module
from finetune.export.parity import ClipsToCompare, compare_split
from finetune.run.folder import ExportedFolder
from finetune.run.manifest import saved_manifest
from finetune.run.model_json import read_model_info
from finetune.run.read import open_run


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    from finetune.export.settings import ExportSettings
    from finetune.run.read import open_run

    settings = ExportSettings("torch", out=tmp_path_factory.mktemp("exported") / "torch")
    folder, _ = module.export_run(open_run(trained_run), settings, progress=lambda *_: None)
    return folder


def test_model_json_says_how_to_feed_the_model_and_how_well_it_agrees(exported):
    info = read_model_info(ExportedFolder(exported).info)
    assert info["input"]["shape"] == ["batch", 4, 3, 32, 32]
    assert [output["name"] for output in info["outputs"]] == ["label", "label_logits"]
    assert info["tasks"]["label"]["names"] == ["dark ones", "it's bright"]
    assert info["clip"]["sampling"] == "segments"
    assert info["parity"]["split"]["clips"] == 4
    assert info["parity"]["split"]["different"] == {"label": []}
    assert max(info["parity"]["largest_difference"].values()) <= 1e-4
    assert info["figures"] is None  # the run was not evaluated
    assert info["versions"]["torch"]


def test_no_file_names_a_folder_of_this_machine(exported, trained_run, clip_folder):
    for file in exported.iterdir():
        for folder in (clip_folder, trained_run.parent, Path(module.__file__).parent):
            assert str(folder).encode() not in file.read_bytes(), file.name


def test_predictions_that_differ_fail_the_export_and_leave_what_was_there(trained_run, tmp_path, finetune, monkeypatch):
    out = tmp_path / "exported"
    status, _, err = finetune("export", trained_run, "--to", "torch", "--out", out, "--check", "batches")
    assert status == 0, err
    before = (out / "model.json").read_text()

    def swapped(*args, **options):
        session = open_session(*args, **options)
        return lambda frames: {name: values[:, ::-1].copy() for name, values in session(frames).items()}

    open_session = module.open_session
    monkeypatch.setattr(module, "open_session", swapped)
    monkeypatch.setattr(module, "TOLERANCE", {})
    status, _, err = finetune("export", trained_run, "--to", "torch", "--out", out)
    assert status == 2
    assert "of 4 predictions of label differ from the run's on test, and 0 may" in err
    assert (out / "model.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported"]


def test_a_split_of_which_no_clip_can_be_read_is_an_error_in_words(trained_run, clip_folder, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    clips = shutil.copytree(clip_folder, tmp_path / "clips")
    for clip in (clips / "test").rglob("*.mp4"):
        clip.write_bytes(b"no video")
    for file, old, new in (
        ("manifest.csv", str(clip_folder), str(clips)),
        ("recipe.yaml", "on_error: fail", "on_error: skip"),
    ):
        (run / file).write_text((run / file).read_text().replace(old, new))
    opened = open_run(run)
    graph = module.build_graph(opened, module.load_model(opened), module.read_fitted(opened))
    with pytest.raises(RunError, match="none of the clips of the split 'test' can be read"):
        compare_split(opened, graph, lambda frames: {}, ClipsToCompare(saved_manifest(opened), "test"))


def test_an_output_beyond_the_tolerance_fails_the_export_and_leaves_nothing(
    trained_run, tmp_path, finetune, monkeypatch
):
    monkeypatch.setattr(module, "compare_batches", lambda *_: {"label": 0.01, "label_logits": 1e-6})
    status, _, err = finetune("export", trained_run, "--to", "torch", "--out", tmp_path / "new")
    assert status == 2
    assert "differs from the run on random frames: label by 0.01; at most 0.0001" in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_exported_one_is_not_replaced(trained_run, tmp_path, finetune):
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = finetune("export", trained_run, "--to", "torch", "--out", tmp_path)
    assert status == 2
    assert "exists and is not an exported folder" in err
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("library", "to"), [("onnxruntime", "onnx"), ("onnxscript", "onnx"), ("openvino", "openvino")])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    library, to, trained_run, tmp_path, finetune, monkeypatch
):
    monkeypatch.setitem(sys.modules, library, None)
    status, _, err = finetune("export", trained_run, "--to", to, "--out", tmp_path / "new")
    assert status == 2
    assert f'pip install "finetune-video[{to}]"' in err
    assert library in err


@pytest.mark.parametrize(
    ("precision", "to", "reason"),
    [("bf16", "onnx", "onnxruntime does not compute bf16"), ("fp16", "openvino", "does not compute fp16 on this proc")],
)
def test_a_precision_that_is_not_computed_is_refused(
    precision, to, reason, trained_run, tmp_path, finetune, monkeypatch
):
    monkeypatch.setattr("openvino.Core.get_property", lambda *_: ["FP32", "INT8"])
    status, _, err = finetune("export", trained_run, "--to", to, "--precision", precision, "--out", tmp_path / "new")
    assert status == 2
    assert reason in err


def test_a_full_disk_leaves_nothing(trained_run, tmp_path, finetune, monkeypatch):
    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(module.WRITERS, "torch", write)
    status, _, err = finetune("export", trained_run, "--to", "torch", "--out", tmp_path / "deep/new")
    assert status == 2
    assert "cannot be written: No space left on device" in err
    assert not list(tmp_path.iterdir())


def test_clips_of_val_are_compared_where_there_is_no_test_split_and_none_where_there_is_neither(
    trained_run, tmp_path, finetune
):
    run = shutil.copytree(trained_run, tmp_path / "run")
    manifest = (run / "manifest.csv").read_text()
    for kept, printed in (("val", "val: 0 of 4 predictions differ"), ("train", "has neither test nor val clips")):
        lines = [
            line for line in manifest.splitlines() if ",test" not in line and (kept == "val" or ",val" not in line)
        ]
        (run / "manifest.csv").write_text("\n".join(lines) + "\n")
        status, out, err = finetune("export", run, "--to", "torch")
        assert status == 0, err
        assert printed in out + err


def test_views_are_an_axis_of_the_input_and_compared_on_the_split(trained_run, tmp_path, finetune):
    run = shutil.copytree(trained_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("  views: 1", "  views: 3"))
    status, _, err = finetune("export", run, "--to", "torch")
    assert status == 0, err
    info = read_model_info(run / "exported/torch/model.json")
    assert info["input"]["axes"] == ["batch", "views", "frames", "channels", "height", "width"]
    assert info["input"]["shape"] == ["batch", 3, 4, 3, 32, 32]
    assert info["outputs"][1]["shape"] == ["batch", 3, 2]
    assert info["parity"]["split"]["different"] == {"label": []}


def test_a_damaged_model_json_is_refused(exported, tmp_path):
    info = json.loads((exported / "model.json").read_text())
    info["file"] = "../../other.pt2"
    path = tmp_path / "model.json"
    path.write_text(json.dumps(info))
    with pytest.raises(module.RunError, match="which is not 'model.pt2'"):
        read_model_info(path)
    path.write_text(json.dumps(info | {"format": 99}))
    with pytest.raises(module.RunError, match="format version 99"):
        read_model_info(path)
