"""An exported folder predicts and evaluates as its run does, and is refused where it cannot or where it is damaged."""

import json
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import finetune as ft
from finetune.errors import RunError

pytestmark = [
    # An import would start telemetry, which the package keeps out.
    pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """RUN/exported/openvino of a copy of the trained run; do not write into it."""
    from finetune.export.export_run import export_run
    from finetune.export.settings import ExportSettings

    run = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(trained_run, run)
    settings = ExportSettings("openvino", check="batches")
    return export_run(ft.open_run(run), settings, progress=lambda *_: None)[0]


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the exported folder outside of its run, to be changed."""
    return shutil.copytree(exported, tmp_path / "copy")


def change(folder, **values):
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_predictions_equal_those_of_the_run(exported, clip_folder):
    run, clips = exported.parent.parent, clip_folder / "test"
    for options in ({}, {"views": 3}, {"calibrated": True}):
        of_run, of_file = (ft.predict(folder, clips, **options) for folder in (run, exported))
        assert [clip.predicted for clip in of_file] == [clip.predicted for clip in of_run]
        for first, second in zip(of_run, of_file, strict=True):
            assert dict(second.top_k) == pytest.approx(dict(first.top_k), abs=1e-4)


def test_clips_are_rejected_by_the_scores_of_its_file(copied, clip_folder):
    for value, is_rejected in ((0.0, False), (2.0, True)):
        tasks = json.loads((copied / "model.json").read_text())["tasks"]
        tasks["label"]["known_scores"]["values"] = [value] * 4
        change(copied, tasks=tasks)
        assert {clip.rejected for clip in ft.predict(copied, clip_folder / "test", reject=0.5)} == {is_rejected}


def test_without_scores_of_val_clips_it_says_how_to_add_them(copied, clip_folder):
    tasks = json.loads((copied / "model.json").read_text())["tasks"]
    del tasks["label"]["known_scores"]
    change(copied, tasks=tasks)
    with pytest.raises(RunError, match="finetune evaluate RUN --split val`, then export it again"):
        ft.predict(copied, clip_folder / "test", reject=0.5)


def test_evaluating_it_takes_the_rows_of_its_run_and_writes_into_its_own_folder(exported, finetune):
    run, options = exported.parent.parent, ("--no-pictures", "--split", "val")
    for folder in (run, exported):
        assert finetune("evaluate", folder, *options)[0] == 0
    of_run, of_file = (
        json.loads((folder / "evaluation" / "val" / "results.json").read_text()) for folder in (run, exported)
    )
    assert of_file["tasks"]["label"]["top1"] == of_run["tasks"]["label"]["top1"]
    assert of_file["tasks"]["label"]["confusion"] == of_run["tasks"]["label"]["confusion"]
    assert of_file["protocol"]["precision"] == "fp32, openvino"
    assert (exported / "evaluation" / "val" / "report.html").is_file()
    assert not (exported / "checkpoints").exists()


def test_outside_of_a_run_it_is_evaluated_on_a_set_that_is_named(copied, clip_folder):
    with pytest.raises(RunError, match="has no rows of its own, .*; name a labelled set, data.manifest="):
        ft.evaluate(copied)
    results = ft.evaluate(copied, f"data.folder={clip_folder}", pictures=False)
    assert results["num_rows"] == 16
    assert (copied / "evaluation" / clip_folder.name / "results.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("train", "--resume"), "training"),
        (("timeline",), "a timeline"),
        (("watch",), "watch"),
        (("evaluate", "--explain"), "--explain"),
        (("evaluate", "--timeline"), "--timeline"),
    ],
)
def test_what_needs_the_weights_of_the_run_is_refused(exported, clip_folder, finetune, arguments, what):
    videos = [clip_folder / "test"] if arguments[0] in {"timeline", "watch"} else []
    status, _, err = finetune(*arguments, exported, *videos)
    assert status == 2
    assert f"is an exported model, and {what} needs the weights of the run" in err


def test_its_weights_cannot_be_loaded(exported):
    with pytest.raises(RunError, match="is an exported model, and this needs the weights"):
        ft.load(exported)


def test_a_pt2_file_is_not_opened_because_it_can_contain_code(copied, clip_folder):
    (copied / "model.pt2").write_bytes(b"anything")
    change(copied, runtime="torch", file="model.pt2")
    with pytest.raises(RunError, match=r"is not opened, because torch.export.load can run code"):
        ft.predict(copied, clip_folder / "test")


def test_a_link_that_leads_out_of_the_folder_is_refused(copied):
    shutil.move(copied / "model.bin", copied.parent / "model.bin")
    (copied / "model.bin").symlink_to("../model.bin")
    with pytest.raises(RunError, match="is a link that leads out"):
        ft.open_run(copied)


@pytest.mark.parametrize(
    ("change_info", "message"),
    [
        (lambda info: info | {"file": "../model.xml"}, "file is '../model.xml'"),
        (lambda info: info | {"format": 99}, "has format version 99"),
        (lambda info: info | {"primary": "other"}, "the primary task 'other' is not one of the tasks"),
        (lambda info: info | {"input": info["input"] | {"shape": ["batch", 9, 3, 32, 32]}}, "its input has the shape"),
        (lambda info: info | {"outputs": info["outputs"][:1]}, "the outputs of the task 'label' do not fit"),
        (
            lambda info: info | {"tasks": {"label": info["tasks"]["label"] | {"names": ["a", "b"]}}},
            "its tasks are not those of recipe.yaml",
        ),
    ],
)
def test_a_model_json_that_does_not_fit_is_refused(copied, change_info, message):
    file = copied / "model.json"
    file.write_text(json.dumps(change_info(json.loads(file.read_text()))))
    with pytest.raises(RunError, match=message):
        ft.open_run(copied)


def test_a_graph_that_is_not_as_model_json_says_is_refused(copied, clip_folder):
    text = (copied / "model.xml").read_text()
    (copied / "model.xml").write_text(text.replace("label_logits", "other"))
    with pytest.raises(RunError, match="has no output label_logits"):
        ft.predict(copied, clip_folder / "test")
    (copied / "model.xml").write_text(text[: len(text) // 2])
    with pytest.raises(RunError, match="OpenVINO cannot open it"):
        ft.predict(copied, clip_folder / "test")


def external_weights(folder, location):
    """An ONNX file in `folder` that adds weights from the file `location` to frames."""
    onnx = pytest.importorskip("onnx")
    weights = onnx.TensorProto(name="weights", dims=[4], data_type=1, data_location=1)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    values = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("frames", "label_logits")]
    node = onnx.helper.make_node("Add", ["frames", "weights"], ["label_logits"])
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:], [weights])
    opset = [onnx.helper.make_opsetid("", 18)]
    (folder / "model.onnx").write_bytes(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize("location", ["../secret.bin", "inside/../../secret.bin", "{folder}/secret.bin"])
def test_an_onnx_file_does_not_read_weights_outside_of_its_folder(tmp_path, location):
    from finetune.inference.exported_session import open_session

    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    folder.mkdir()
    np.zeros(4, np.float32).tofile(folder / "weights.bin")
    np.zeros(4, np.float32).tofile(tmp_path / "secret.bin")
    external_weights(folder, "weights.bin")
    open_session(folder, "onnx", ["label_logits"])
    external_weights(folder, location.format(folder=tmp_path))
    with pytest.raises(RunError, match="onnxruntime cannot open it: .*(escapes|not allowed)"):
        open_session(folder, "onnx", ["label_logits"])


def test_runtimes_open_no_socket(exported, clip_folder, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(ft.predict(exported, clip_folder / "test")) == 4
    assert "openvino_telemetry.backend" not in sys.modules
