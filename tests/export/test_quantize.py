"""An int8 export is calibrated on training clips, keeps the normalization in fp32, and is kept if it costs little."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

import finetune as ft
from finetune.errors import RunError
from finetune.export import int8_cost
from finetune.export.int8_cost import cost_problem, describe_cost, measure_cost, refuse_cost
from finetune.export.parity import SplitComparison
from finetune.export.quantize import Node, choose_rows, outside_convolutions
from finetune.recipe.tasks import OutputSpec
from finetune.run.fitted import Fitted
from finetune.runtime.extras import import_extra

needs_nncf = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("nncf") is None, reason="needs the extra openvino"
)


def test_what_no_convolution_precedes_or_follows_stays_in_fp32():
    nodes = [
        Node("frames", ()),
        Node("normalize", ("frames",)),
        Node("first", ("normalize",), is_convolution=True),
        Node("relu", ("first",)),
        Node("early head", ("relu",)),
        Node("scale", ("relu",)),
        Node("last", ("scale",), is_convolution=True),
        Node("pool", ("last",)),
        Node("head", ("pool", "early head")),
    ]
    assert outside_convolutions(nodes) == ["frames", "normalize", "early head", "pool", "head"]


def test_calibration_clips_are_of_train_alone_and_of_all_classes(clip_folder):
    manifest = ft.Manifest.from_folder(clip_folder)
    rows = choose_rows(manifest, 6, seed=0)
    assert set(manifest.splits[rows]) == {"train"}
    assert np.bincount(manifest.labels[rows]).tolist() == [3, 3]
    assert rows.tolist() == choose_rows(manifest, 6, seed=0).tolist()
    assert len(choose_rows(manifest, 100, seed=0)) == 8


def compared(clip_folder, run_NK, int8_NK):
    manifest = ft.Manifest.from_folder(clip_folder)
    manifest = replace(manifest, groups=None)
    rows = np.arange(len(run_NK))
    return manifest, SplitComparison(manifest, "test", rows, {"label": run_NK}, {"label": int8_NK}, {})


def test_the_cost_is_the_accuracy_lost_in_pairs(clip_folder):
    manifest, _ = compared(clip_folder, np.zeros((1, 2)), np.zeros((1, 2)))
    right_NK = np.eye(2)[manifest.labels]
    wrong_NK = right_NK.copy()
    wrong_NK[:4] = wrong_NK[:4, ::-1]
    output = OutputSpec("classify", manifest.classes)
    cost = measure_cost(compared(clip_folder, right_NK, wrong_NK)[1], "label", output, Fitted())
    assert (cost["run"], cost["int8"], cost["difference"]) == (1.0, 0.75, -0.25)
    assert cost["interval"][0] < -0.25 < cost["interval"][1]
    with pytest.raises(
        RunError, match=r"the accuracy of label changes by -25 points \(95 % interval .*At most 5 points"
    ):
        refuse_cost({"label": cost})
    same = measure_cost(compared(clip_folder, right_NK, right_NK)[1], "label", output, Fitted())
    assert same["difference"] == 0 and cost_problem("label", same) is None


def test_a_small_loss_is_refused_only_where_the_interval_excludes_0():
    cost = {"metric": "accuracy", "run": 0.9, "int8": 0.87, "difference": -0.03, "interval": [-0.08, 0.02]}
    assert cost_problem("label", cost) is None
    assert cost_problem("label", cost | {"interval": [-0.05, -0.01]}) is not None
    assert cost_problem("label", cost | {"difference": -0.01, "interval": [-0.02, -0.005]}) is None


def test_numbers_are_judged_by_how_far_they_move(clip_folder):
    _, comparison = compared(clip_folder, np.zeros((4, 2)), np.full((4, 2), 3.0))
    output = OutputSpec("regress", ("a", "b"), (0.0, 0.0), (10.0, 30.0))
    cost = measure_cost(comparison, "label", output, Fitted())
    assert cost["difference"] == pytest.approx(0.2)
    assert describe_cost("label", cost).startswith("predictions of label move by +0.2 of their spread in training")
    assert cost_problem("label", cost) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "torch"), "--int8 is for onnx and openvino"),
        (("--to", "onnx", "--precision", "fp16"), "keeps the other parts in fp32, not fp16"),
        (("--to", "onnx", "--check", "batches"), "is judged on clips of the test split"),
    ],
)
def test_what_int8_cannot_be_combined_with_is_refused(trained_run, finetune, options, message):
    status, _, err = finetune("export", trained_run, "--int8", *options)
    assert status == 2 and message in err


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.slow
@needs_nncf
def test_an_int8_export_says_what_it_costs(run, clip_folder, finetune):
    status, out, err = finetune("export", run, "--to", "openvino", "--int8")
    assert status == 0, err
    folder = run / "exported" / "openvino-int8"
    of_int8 = json.loads((folder / "model.json").read_text())["int8"]
    assert "int8      the accuracy of label changes by +0 points" in out
    assert (of_int8["calibration_clips"], of_int8["split"], of_int8["recipe"]) == (8, "test", "default")
    assert of_int8["cost"]["label"]["difference"] == 0
    assert of_int8["bytes"] < 0.5 * of_int8["fp32_bytes"]
    assert "the accuracy of label changes by +0 points" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []

    model = import_extra("openvino", extra="openvino").Core().read_model(folder / "model.xml")
    kinds = [operation.get_type_name() for operation in model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") > 5
    assert "FakeQuantize" not in kinds[: kinds.index("Divide" if "Divide" in kinds else "Multiply")]

    results = ft.evaluate(folder, pictures=False)
    assert results["protocol"]["precision"] == "int8, openvino"
    assert results["tasks"]["label"]["top1"] == ft.evaluate(run, pictures=False)["tasks"]["label"]["top1"]


@pytest.mark.slow
@needs_nncf
def test_an_int8_export_that_costs_too_much_leaves_nothing(run, finetune, monkeypatch, tmp_path):
    monkeypatch.setattr(int8_cost, "MAX_LOSS", -1.0)
    status, _, err = finetune("export", run, "--to", "openvino", "--int8", "--out", tmp_path / "new" / "int8")
    assert status == 2
    assert "at int8 the accuracy of label changes by" in err
    assert not (tmp_path / "new").exists()


EXPORT = """
import json, sys
asked = []
def watch(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(args[1], tuple)):
        asked.append(str(args))
sys.addaudithook(watch)
from finetune.cli import main, progress
progress.SECONDS_BETWEEN_LINES = 0.0
sys.argv = ["finetune", "export", *sys.argv[1:], "--int8"]
try:
    main.main()
except SystemExit as end:
    print(json.dumps([end.code, asked]))
"""


@pytest.mark.slow
@needs_nncf
def test_quantization_shows_our_progress_and_asks_no_network(run, tmp_path):
    command = [sys.executable, "-c", EXPORT, run, "--to", "openvino", "--out", tmp_path / "int8"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    assert "quantizing, clips read: 8" in done.stderr
    shown = {line.partition(":")[0] for line in done.stderr.splitlines()}
    assert shown == {"exporting the network", "quantizing, clips read", "comparing with the run"}
    assert all(line.startswith(("parity", "int8", " ", str(tmp_path), "[")) for line in done.stdout.splitlines())
