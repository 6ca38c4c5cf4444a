"""A graph gives what prediction gives, for any batch size, with several views and tasks."""

import gc
import sys

import numpy as np
import pytest
import torch
from grey import TINY
from multitask_models import tasked

from finetune.export import write_model
from finetune.export.graph import ExportGraph
from finetune.export.parity import TOLERANCE, _expected_outputs, compare_batches
from finetune.export.write_model import WRITERS, export_program
from finetune.inference.exported_session import open_session
from finetune.model.classifier import build_model
from finetune.recipe.tasks import Task
from finetune.runtime.signal_stack import signal_stack

KINDS = {
    "way": "classify",
    "tags": "multilabel",
    "size": "ordinal",
    "shade": "regress",
    "box": "box",
    "track": "motion",
}


def graph_of(temporal="mean", *, views=1, consensus="probs", temperatures=None, multilabel=False):
    torch.manual_seed(0)
    model = build_model(TINY, ["a", "b", "c"], weights="none", temporal=temporal, num_frames=4, size=32)
    model.consensus, model.multilabel = consensus, multilabel
    return ExportGraph(model.eval(), views=views, temperatures=temperatures or {"label": 0.7}).eval()


def session_of(graph, to, folder):
    WRITERS[to](export_program(graph), graph, folder, "fp32")
    return open_session(folder, to, graph.output_names)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("temporal", ["mean", "gru", "concat"])
def test_a_written_file_gives_the_runs_probabilities_and_logits_at_three_batch_sizes(to, temporal, tmp_path):
    graph = graph_of(temporal)
    differences = compare_batches(graph, session_of(graph, to, tmp_path))
    assert set(differences) == {"label", "label_logits"}
    assert max(differences.values()) < TOLERANCE["fp32"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are read as Linux has them")
def test_signals_keep_their_stack_when_models_of_openvino_are_opened_and_freed(tmp_path):
    """Else Ctrl-C is handled on memory that is free, and ends in a segmentation fault."""
    before = signal_stack()
    graph = graph_of()
    sessions = [session_of(graph, "openvino", tmp_path), open_session(tmp_path, "openvino", graph.output_names)]
    while sessions:
        sessions.pop(0)  # the first that was opened is freed first
        gc.collect()
        assert (signal_stack().address, signal_stack().flags) == (before.address, before.flags)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_six_kinds_of_tasks_are_named_outputs(to, tmp_path):
    tasks = {name: Task(kind=kind) for name, kind in KINDS.items()}
    graph = ExportGraph(tasked(tasks, size=32).eval(), views=1, temperatures={"way": 2.0, "tags": 0.5}).eval()
    assert graph.output_names == [
        *("way", "way_logits", "tags", "tags_logits", "size", "size_logits"),
        *("shade", "box", "track"),
    ]
    assert max(compare_batches(graph, session_of(graph, to, tmp_path)).values()) < TOLERANCE["fp32"]


@pytest.mark.parametrize("consensus", ["probs", "logits", "max"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_views_are_combined_before_the_temperature_is_applied(consensus, multilabel):
    graph = graph_of(views=3, consensus=consensus, temperatures={"label": 2.0}, multilabel=multilabel)
    frames = graph.example(2)
    assert frames.shape == (2, 3, 4, 3, 32, 32)
    with torch.no_grad():
        outputs = graph(frames)
    expected = _expected_outputs(graph, frames)
    assert outputs["label_logits"].shape == (2, 3, 3)
    for name, values in outputs.items():
        np.testing.assert_allclose(values.numpy(), expected[name], atol=1e-6)


def test_boxes_of_views_are_left_to_the_caller_and_other_numbers_are_averaged():
    tasks = {"shade": Task(kind="regress"), "box": Task(kind="box")}
    graph = ExportGraph(tasked(tasks, size=32).eval(), views=2, temperatures={}).eval()
    with torch.no_grad():
        outputs = graph(graph.example(3))
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {"shade": (3, 1), "box": (3, 2, 4)}


def test_weights_of_more_than_an_onnx_file_holds_lie_in_a_file_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(write_model, "ONE_FILE_BYTES", 0)
    graph = graph_of()
    (tmp_path / "written").mkdir()
    session_of(graph, "onnx", tmp_path / "written")
    moved = (tmp_path / "written").rename(tmp_path / "moved")  # as an export is once it is complete
    assert sorted(path.name for path in moved.iterdir()) == ["model.onnx", "model.onnx.data"]
    session = open_session(moved, "onnx", graph.output_names)
    assert max(compare_batches(graph, session).values()) < TOLERANCE["fp32"]


def test_an_exported_program_names_no_source_file():
    program = export_program(graph_of())
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)
