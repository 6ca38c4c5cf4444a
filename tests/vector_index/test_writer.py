"""An index folder behaves as a list of rows, whatever is added, removed, interrupted or damaged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import IndexFolderError
from finetune.vector_index import writer as writer_module
from finetune.vector_index.entry import EmbeddingSource, Entry, unit_ids
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.nearest import nearest
from finetune.vector_index.writer import IndexWriter

SOURCE = EmbeddingSource("backbone", "resnet18.a1_in1k", "ab" * 32, 4, {"clip": {"num_frames": 8}, "window": None})


def rows(first, count):
    """Entries and vectors that tell their number."""
    numbers = range(first, first + count)
    entries = [
        Entry(
            f"/videos/{n} ü'\udcff.mp4", start=n / 3, end=n / 3 + 1, labels={"label": ["a b"]}, group=f"g{n % 5}", row=n
        )
        for n in numbers
    ]
    angles = np.array([[np.sin(n), np.cos(n), 0, 0] for n in numbers], dtype=np.float32).reshape(-1, 4)
    return entries, angles


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("finetune.vector_index.writer.rows_per_shard", lambda dim: 5)


def content(folder):
    index = VectorIndex.open(folder)
    vectors = np.concatenate([np.empty((0, 4)), *(block for _, block in index.shards())])
    return list(index.entries()), vectors, index


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 13)),
        st.tuples(st.just("remove"), st.integers(2, 7)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("open again"), st.just(0)),
        st.tuples(st.just("leave a partial shard"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS)
def test_any_sequence_of_changes_equals_that_of_a_list(actions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    model, number = [], 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer_module, "rows_per_shard", lambda dim: 5)
        writer = IndexWriter(folder, SOURCE).__enter__()
        for action, value in actions:
            if action == "add":
                entries, vectors = rows(number, value)
                writer.add(entries, vectors)
                model += zip(entries, vectors, strict=True)
                number += value
            elif action == "remove":
                kept = [item for item in model if item[0].row % value]
                count = writer.remove(lambda entry, value=value: entry.row % value == 0)
                assert count == len(model) - len(kept)
                model = kept
            elif action == "flush":
                writer.flush()
            else:
                writer.__exit__(None, None, None)
                if action != "open again":
                    (folder / f"vectors-{'0' * 32}.safetensors.partial").write_bytes(b"half")
                    (folder / f"vectors-{'1' * 32}.safetensors").write_bytes(b"not named by the index")
                writer = IndexWriter(folder, SOURCE).__enter__()
        writer.__exit__(None, None, None)
    entries, vectors, index = content(folder)
    assert entries == [entry for entry, _ in model] and len(index) == len(model)
    assert (vectors == np.array([vector for _, vector in model]).reshape(-1, 4)).all()
    assert (index.units() == unit_ids(entries)).all()
    assert [index.entry(row) for row in range(len(model))] == entries
    assert all((index.vector(row) == vectors[row]).all() for row in range(len(model)))
    shards = json.loads((folder / "index.json").read_text())["shards"]
    assert {path.name for path in folder.glob("vectors-*")} == {shard["file"] for shard in shards}


def test_search_in_a_folder_equals_search_in_an_array(tmp_path, small_shards):
    entries, vectors = rows(0, 23)
    with IndexWriter(tmp_path / "index", SOURCE) as writer:
        writer.add(entries, vectors)
    index = VectorIndex.open(tmp_path / "index")
    units = unit_ids(entries)
    found = nearest(index, vectors[:3], top_k=4, unit_ids=index.units(), query_units=units[:3])
    expected = nearest(vectors, vectors[:3], top_k=4, unit_ids=units, query_units=units[:3])
    assert (found.rows_QK == expected.rows_QK).all() and (found.scores_QK == expected.scores_QK).all()
    assert not (found.rows_QK % 5 == np.arange(3)[:, None]).any(), "rows of the same group are left out"


def test_rows_added_one_at_a_time_fill_shards(tmp_path, small_shards):
    for number in range(12):
        with IndexWriter(tmp_path, SOURCE) as writer:
            writer.add(*rows(number, 1))
    shards = json.loads((tmp_path / "index.json").read_text())["shards"]
    assert [shard["rows"] for shard in shards] == [5, 5, 2]


def test_rows_added_before_an_interruption_are_kept(tmp_path):
    writer = IndexWriter(tmp_path, SOURCE).__enter__()
    writer.add(*rows(0, 3))
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(VectorIndex.open(tmp_path)) == 3


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import finetune.vector_index.writer as writer
import safetensors.numpy
from test_writer import KILL_AT, SOURCE, rows
from pathlib import Path
writer.rows_per_shard = lambda dim: 5

os.fsync = lambda file: None  # slow, and a kill loses nothing that was written

def work(folder, left):
    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for module, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "write_bytes"), (Path, "write_text")):
        setattr(module, name, counted(getattr(module, name)))
    with writer.IndexWriter(folder, SOURCE) as index:
        index.add(*rows(7, 8))
        index.remove(lambda entry: entry.row % 4 == 0)
        index.add(*rows(15, 2))

for kill_at in KILL_AT:
    if not (child := os.fork()):
        work(Path(sys.argv[1]) / str(kill_at), kill_at)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in {{0, -signal.SIGKILL}}
"""
KILL_AT = range(75)
STATES = (
    [*range(7)],
    [*range(10)],
    [*range(15)],
    [n for n in range(15) if n % 4],
    [*(n for n in range(15) if n % 4), 15],
    [*(n for n in range(17) if n % 4), 16],
)


def test_a_writer_killed_at_any_step_leaves_a_whole_index(tmp_path, small_shards):
    for kill_at in KILL_AT:
        with IndexWriter(tmp_path / str(kill_at), SOURCE) as writer:
            writer.add(*rows(0, 7))
    code = KILLED.format(path=[str(Path(__file__).parent), *sys.path])
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    reached = set()
    for folder in (tmp_path / str(kill_at) for kill_at in KILL_AT):
        entries, vectors, _ = content(folder)
        numbers = [entry.row for entry in entries]
        reached.add(STATES.index(numbers))
        assert (vectors == np.concatenate([rows(n, 1)[1] for n in numbers])).all()
        with IndexWriter(folder, SOURCE) as writer:
            writer.add(*rows(100, 1))
        assert [entry.row for entry in content(folder)[0]] == [*numbers, 100]
        assert not list(folder.glob("*.partial"))
    assert reached == set(range(len(STATES)))


def test_two_programs_do_not_write_at_once(tmp_path):
    with IndexWriter(tmp_path, SOURCE), pytest.raises(IndexFolderError, match="another program is writing this index"):
        IndexWriter(tmp_path, SOURCE).__enter__()


def test_vectors_of_another_model_are_refused_with_what_differs(tmp_path):
    with IndexWriter(tmp_path, SOURCE):
        pass
    other = EmbeddingSource("backbone", "resnet50", "cd" * 32, 4, {"clip": {"num_frames": 4}, "window": None})
    expected = (
        "was made by another model: name resnet50 instead of resnet18.a1_in1k, weights cdcdcdcdcdcd… instead of "
        "abababababab…, settings.clip.num_frames 4 instead of 8; use the same model, or a new folder"
    )
    with pytest.raises(IndexFolderError, match=expected):
        IndexWriter(tmp_path, other).__enter__()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"video")
    with pytest.raises(IndexFolderError, match=r"is not an index, and not empty \(it has holiday.mp4\); give a new"):
        IndexWriter(tmp_path, SOURCE).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]
    with pytest.raises(IndexFolderError, match="is a file; give the path of a folder"):
        IndexWriter(tmp_path / "holiday.mp4", SOURCE).__enter__()


@pytest.mark.parametrize("name", ["index.json", "lock"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(IndexFolderError, match=f"{name}: is a link"):
        IndexWriter(tmp_path / "index", SOURCE).__enter__()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "index"
    with IndexWriter(folder, SOURCE) as writer:
        writer.add(*rows(0, 6))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value | {"format": 2}, "was written by a newer version of finetune .index format 2; this one"),
        (lambda value: value | {"format": "1"}, "is damaged"),
        (lambda value: [value], "is damaged"),
        (lambda value: {"format": 1}, "is damaged"),
        (lambda value: value | {"source": {}}, "is damaged"),
        (lambda value: value | {"source": value["source"] | {"dim": -1}}, "is damaged"),
        (lambda value: value | {"source": value["source"] | {"kind": "run", "name": "hf://a/b"}}, "is not a folder"),
        (lambda value: value | {"shards": [{"file": "../vectors.safetensors", "rows": 1}]}, "is damaged"),
        (lambda value: value | {"shards": [value["shards"][0] | {"rows": 7}]}, "is damaged"),
        (lambda value: value | {"shards": [{"file": f"vectors-{'0' * 32}.safetensors", "rows": 1}]}, "is missing"),
    ],
)
def test_a_wrong_index_file_is_refused(index_folder, tmp_path, change, message):
    folder = shutil.copytree(index_folder, tmp_path / "index")
    path = folder / "index.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(IndexFolderError, match=message):
        VectorIndex.open(folder)
    with pytest.raises(IndexFolderError, match=message):
        IndexWriter(folder, SOURCE).__enter__()


def test_a_folder_without_an_index_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IndexFolderError, match=r"is not an index: it has no index.json; make one with: finetune"):
            VectorIndex.open(folder)


def test_shards_of_every_shorter_length_are_refused(index_folder, tmp_path):
    folder = shutil.copytree(index_folder, tmp_path / "index")
    (shard,) = folder.glob("vectors-*")
    whole = shard.read_bytes()
    for size in [*range(0, len(whole), 13), len(whole) - 1]:
        shard.write_bytes(whole[:size])
        with pytest.raises(IndexFolderError, match="is damaged"):
            VectorIndex.open(folder)
    shard.write_bytes(whole + b"more")
    with pytest.raises(IndexFolderError, match="is damaged"):
        VectorIndex.open(folder)


@settings(max_examples=200, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_gives_another_value_or_a_plain_error(index_folder, position, value, tmp_path_factory):
    folder = shutil.copytree(index_folder, tmp_path_factory.mktemp("changed") / "index")
    (shard,) = folder.glob("vectors-*")
    data = bytearray(shard.read_bytes())
    data[int(position * len(data))] = value
    shard.write_bytes(data)
    try:
        index = VectorIndex.open(folder)
        list(index.entries())
        nearest(index, np.eye(4, dtype=np.float32), top_k=3, unit_ids=index.units(), query_units=index.units()[:4])
    except IndexFolderError as error:
        assert "damaged" in str(error)


def test_a_shard_that_is_a_link_or_a_pipe_is_refused(index_folder, tmp_path):
    for make in (lambda path: path.symlink_to(tmp_path / "whole"), os.mkfifo):
        folder = shutil.copytree(index_folder, tmp_path / make.__name__.strip("<>"))
        (shard,) = folder.glob("vectors-*")
        shard.replace(tmp_path / "whole")
        make(shard)
        with pytest.raises(IndexFolderError, match="is not a regular file"):
            VectorIndex.open(folder)


def test_a_row_that_does_not_exist_is_refused(index_folder):
    with pytest.raises(IndexFolderError, match="there is no row 6; it has 6 rows, counted from 0"):
        VectorIndex.open(index_folder).entry(6)


def test_an_empty_index_opens_and_cannot_be_searched(tmp_path):
    with IndexWriter(tmp_path, SOURCE):
        pass
    index = VectorIndex.open(tmp_path)
    assert len(index) == 0 and list(index.entries()) == [] and index.units().shape == (0, 2)
    with pytest.raises(IndexFolderError, match="the index is empty; add videos to it with"):
        nearest(index, np.eye(4, dtype=np.float32), top_k=1)
