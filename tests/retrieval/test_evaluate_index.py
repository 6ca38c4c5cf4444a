"""Figures of an index: its labelled rows are queries for each other, without those of their own group or file."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from finetune.cli.main import app
from finetune.errors import IndexFolderError
from finetune.metrics.retrieval import LabelledVectors, rank_queries
from finetune.retrieval.evaluate_index import evaluate_index
from finetune.vector_index.entry import EmbeddingSource, Entry
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.writer import IndexWriter

SOURCE = EmbeddingSource("backbone", "drawn", "0" * 64, 4, {})


def write_index(folder, entries):
    rng = np.random.default_rng(0)
    vectors_ND = rng.normal(size=(len(entries), 4)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    with IndexWriter(folder, SOURCE) as writer:
        writer.add(entries, vectors_ND)
    return VectorIndex.open(folder), vectors_ND


def labelled(number, *, name="label", group=None):
    return Entry(f"/clips/{number}.mp4", labels={name: ["run" if number % 3 else "walk"]}, group=group)


def test_figures_are_those_of_the_vectors_with_their_labels(tmp_path):
    entries = [labelled(number, group=f"g{number % 5}") for number in range(30)]
    index, vectors_ND = write_index(tmp_path / "index", entries)
    figures = evaluate_index(index)
    classes_NK = np.array([[number % 3 != 0, number % 3 == 0] for number in range(30)])
    ranks = rank_queries(LabelledVectors([vectors_ND], classes_NK, np.arange(30) % 5))
    assert figures["map"] == pytest.approx(ranks.shares["map"].mean())
    assert (figures["task"], figures["num_queries"], figures["num_groups"]) == ("label", 30, 5)
    assert figures["gallery_size"] == 24
    assert evaluate_index(index, same_group=True)["gallery_size"] == 29


def test_windows_of_one_file_do_not_find_each_other(tmp_path):
    entries = [Entry(f"/{n // 4}.mp4", n % 4, n % 4 + 1, labels={"label": ["run"]}) for n in range(12)]
    index, _ = write_index(tmp_path / "index", entries)
    assert evaluate_index(index)["gallery_size"] == 8


def test_unlabelled_rows_are_neither_queries_nor_found(tmp_path):
    entries = [labelled(number) for number in range(9)] + [Entry(f"/clips/{number}.mp4") for number in range(9, 14)]
    index, _ = write_index(tmp_path / "index", entries)
    figures = evaluate_index(index)
    assert (figures["num_queries"], figures["gallery_size"]) == (9, 8)


def test_an_index_without_labels_is_refused(tmp_path):
    index, _ = write_index(tmp_path / "index", [Entry("/clips/0.mp4"), Entry("/clips/1.mp4")])
    with pytest.raises(IndexFolderError, match=r"none of the 2 rows has a label.*one folder per class"):
        evaluate_index(index)
    index, _ = write_index(tmp_path / "other", [labelled(number, name="action") for number in range(4)])
    assert evaluate_index(index)["task"] == "action"
    with pytest.raises(IndexFolderError, match=r"no row has a label of 'actoin' \(nearest: action\)"):
        evaluate_index(index, task="actoin")


def test_the_command_prints_figures_with_chance_and_intervals(tmp_path):
    folder = tmp_path / "index"
    write_index(folder, [*(labelled(number, group=f"g{number % 5}") for number in range(30)), Entry("/clips/x.mp4")])
    done = CliRunner().invoke(app, ["search", str(folder), "--evaluate"])
    assert done.exit_code == 0, done.output
    assert "30 queries of 5 groups or files; each ranks about 24 rows, those of its own group or file left out" in (
        done.stdout
    )
    assert "chance" in done.stdout and "recall@5" in done.stdout and "walk" in done.stdout
    printed = json.loads(CliRunner().invoke(app, ["search", str(folder), "--evaluate", "--json"]).stdout)
    assert printed["num_queries"] == 30 and len(printed["per_class"]) == 2
    only_walk = CliRunner().invoke(app, ["search", str(folder), "--evaluate", "--json", "--within", "label=walk"])
    assert json.loads(only_walk.stdout)["recall_1"] == 1


def test_other_queries_beside_evaluate_are_refused(tmp_path):
    write_index(tmp_path / "index", [labelled(number) for number in range(4)])
    done = CliRunner().invoke(app, ["search", str(tmp_path / "index"), "row:0", "--evaluate"])
    assert isinstance(done.exception, IndexFolderError)
    assert "takes the labelled rows of the index as queries" in str(done.exception)
