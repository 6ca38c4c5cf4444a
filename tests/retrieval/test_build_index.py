"""A build adds what is missing and nothing twice, and goes on wherever it was stopped."""

import hashlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import IndexFolderError, VideoError
from finetune.recipe.load import load_recipe
from finetune.retrieval.allowed_rows import allowed_rows
from finetune.retrieval.build_index import build_index
from finetune.retrieval.build_plan import WindowLengths, is_unfinished, plan_build
from finetune.retrieval.embedder import Embedded, WindowVector
from finetune.retrieval.indexed_rows import read_indexed_rows
from finetune.retrieval.query import parse_queries
from finetune.retrieval.remove_clips import remove_clips
from finetune.vector_index.entry import EmbeddingSource
from finetune.vector_index.index import VectorIndex

WINDOWS = 6  # of each recording


class FakeEmbedder:
    """Vectors that depend on the content of a file; an empty file cannot be read. Lists what it computes."""

    def __init__(self, weights="w"):
        self.source = EmbeddingSource("backbone", "fake", weights, 4, {})
        self.computed = []

    def vector(self, path, number=0):
        self.computed.append((Path(path).name, number))
        data = Path(path).read_bytes()
        if not data:
            raise VideoError(f"{path}: is empty")
        digest = hashlib.sha256(data + bytes([number])).digest()
        vector_D = np.frombuffer(digest[:16], dtype="<u4").astype(np.float32)
        return vector_D / np.linalg.norm(vector_D)

    def embed(self, clips, rows=None, *, progress=None):
        for row in range(len(clips)) if rows is None else rows.tolist():
            try:
                yield Embedded(row, self.vector(clips.path(row)))
            except VideoError as error:
                yield Embedded(row, None, str(error))

    def embed_windows(self, recording, lengths, *, first_window=0, progress=None):
        for number in range(first_window, WINDOWS):
            yield WindowVector(number * 1.0, number + 2.0, self.vector(recording, number))


@pytest.fixture
def clips(tmp_path):
    """Files a.mp4 to e.mp4 that are no videos."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in "abcde":
        (folder / f"{name}.mp4").write_text(name)
    return folder


def read(source, *overrides):
    return read_indexed_rows(source, load_recipe("folder", overrides))


def build(source, out, *, embedder=None, windows=None, stop_after=None):
    """Build or go on; (what was computed, reasons)."""
    embedder, rows = embedder or FakeEmbedder(), read(source)
    existing = VectorIndex.open(out) if (out / "index.json").exists() else None
    plan = plan_build(rows, existing, in_windows=windows is not None)
    reasons = []
    with closing(build_index(embedder, rows, out, plan, windows=windows)) as results:
        for number, (_, reason) in enumerate(results, 1):
            reasons += [reason] if reason else []
            if number == stop_after:
                break
    return embedder.computed, reasons


def names(out):
    return [Path(entry.path).name for entry in VectorIndex.open(out).entries()]


def test_a_stopped_build_goes_on_and_adds_nothing_twice(clips, tmp_path):
    out = tmp_path / "index"
    build(clips, out, stop_after=2)
    assert is_unfinished(out)
    assert names(out) == ["a.mp4", "b.mp4"]
    computed, _ = build(clips, out)
    assert [name for name, _ in computed] == ["c.mp4", "d.mp4", "e.mp4"]
    assert not is_unfinished(out)
    assert build(clips, out)[0] == []
    index = VectorIndex.open(out)
    expected = [FakeEmbedder().vector(clips / f"{name}.mp4") for name in "abcde"]
    np.testing.assert_allclose(np.concatenate([vectors for _, vectors in index.shards()]), expected, atol=1e-6)


def test_changed_files_are_embedded_again_and_new_ones_added(clips, tmp_path):
    out = tmp_path / "index"
    build(clips, out)
    (clips / "b.mp4").write_text("changed")
    (clips / "f.mp4").write_text("f")
    computed, _ = build(clips, out)
    assert [name for name, _ in computed] == ["b.mp4", "f.mp4"]
    assert sorted(names(out)) == [f"{name}.mp4" for name in "abcdef"]
    row = names(out).index("b.mp4")
    np.testing.assert_allclose(VectorIndex.open(out).vector(row), FakeEmbedder().vector(clips / "b.mp4"), atol=1e-6)


@pytest.mark.parametrize("written", range(2 * WINDOWS + 1))
def test_windows_go_on_in_the_middle_of_a_recording(clips, tmp_path, written):
    out, windows, embedder = tmp_path / "index", WindowLengths(2, 1), FakeEmbedder()
    vector = embedder.vector

    def stopped(path, number=0):
        if len(embedder.computed) == written:
            raise KeyboardInterrupt
        return vector(path, number)

    embedder.vector = stopped
    with pytest.raises(KeyboardInterrupt):
        build(clips, out, embedder=embedder, windows=windows)
    assert len(VectorIndex.open(out)) == written
    computed, _ = build(clips, out, windows=windows)
    assert len(computed) == 5 * WINDOWS - written
    entries = list(VectorIndex.open(out).entries())
    assert [(Path(entry.path).stem, entry.start, entry.end) for entry in entries] == [
        (name, number, number + 2) for name in "abcde" for number in range(WINDOWS)
    ]
    assert build(clips, out, windows=windows)[0] == []


def test_a_recording_that_was_not_finished_is_forgotten_where_others_are_added(clips, tmp_path):
    out, windows, embedder = tmp_path / "index", WindowLengths(2), FakeEmbedder()
    with closing(embedder.embed_windows(clips / "a.mp4", windows)) as vectors:
        embedder.embed_windows = lambda *given, **options: [
            next(vectors),
            next(vectors),
            (_ for _ in ()).throw(SystemExit),
        ]
        with pytest.raises(SystemExit):
            build(clips / "a.mp4", out, embedder=embedder, windows=windows)
    build(clips / "b.mp4", out, windows=windows)
    assert names(out) == ["b.mp4"] * WINDOWS


def test_unreadable_files_are_named_and_leave_no_windows(clips, tmp_path):
    (clips / "c.mp4").write_bytes(b"")
    for windows in (None, WindowLengths(2)):
        out = tmp_path / f"index-{windows is None}"
        _, reasons = build(clips, out, windows=windows)
        assert reasons == [f"{clips / 'c.mp4'}: is empty"]
        assert "c.mp4" not in names(out)
        assert [name for name, _ in build(clips, out, windows=windows)[0]] == ["c.mp4"], "it is tried again"


def test_an_index_of_another_model_is_refused(clips, tmp_path):
    build(clips, tmp_path / "index", stop_after=1)
    with pytest.raises(IndexFolderError, match="made by another model: weights v instead of w|weights w instead of v"):
        build(clips, tmp_path / "index", embedder=FakeEmbedder("v"))
    with pytest.raises(IndexFolderError, match="settings.window_seconds"):
        build(clips, tmp_path / "index", windows=WindowLengths(3))


def test_rows_keep_labels_groups_splits_and_times(clips, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text(
        "path,label,group,split,start,end\nclips/a.mp4,kick,p1,train,0,2.5\nclips/a.mp4,,p1,test,3,\n"
        "clips/b.mp4,wave,p2,val,,\nclips/a.mp4,kick,p1,train,0,2.5\n"
    )
    build(table, tmp_path / "index")
    first, second, third = VectorIndex.open(tmp_path / "index").entries()
    assert (first.path, first.start, first.end, first.row) == (str(clips / "a.mp4"), 0, 2.5, 0)
    assert (first.labels, first.group, first.split) == ({"label": ["kick"]}, "p1", "train")
    assert (second.start, second.end, second.labels, second.split) == (3, None, {"label": []}, "test")
    assert (third.start, third.end, third.labels, third.row) == (None, None, {"label": ["wave"]}, 2)


def test_a_folder_of_classes_has_labels_and_one_of_plain_videos_has_none(clips, tmp_path):
    entry = read(clips).entry(0)
    assert (entry.labels, entry.split, entry.group) == (None, None, None)
    (clips.parent / "sets" / "kick").mkdir(parents=True)
    clips.rename(clips.parent / "sets" / "wave")
    (clips.parent / "sets" / "kick" / "x.mp4").write_text("x")
    entries = [read(clips.parent / "sets").entry(row) for row in range(6)]
    assert {(Path(entry.path).name, *entry.labels["label"]) for entry in entries} == {
        ("x.mp4", "kick"),
        *((f"{name}.mp4", "wave") for name in "abcde"),
    }
    assert {entry.split for entry in entries} == {None}


def test_several_tasks_give_their_classes(clips, tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text("path,label,speed,tags\nclips/a.mp4,kick,fast,x;y\nclips/b.mp4,wave,,\n")
    tasks = [
        "tasks.label.kind=classify",
        "tasks.speed.kind=classify",
        "tasks.tags.kind=multilabel",
        "tasks.box.kind=box",
    ]
    rows = read(table, *tasks)
    assert rows.entry(0).labels == {"label": ["kick"], "speed": ["fast"], "tags": ["x", "y"]}
    assert rows.entry(1).labels == {"label": ["wave"], "speed": [], "tags": []}


def test_files_are_removed_by_pattern_by_csv_and_where_they_are_gone(clips, tmp_path):
    out = tmp_path / "index"
    build(clips, out)
    assert remove_clips(out, pattern="[ab].mp4") == 2
    assert names(out) == ["c.mp4", "d.mp4", "e.mp4"]
    (tmp_path / "gone.csv").write_text("path\nclips/d.mp4\n")
    assert remove_clips(out, pattern=str(tmp_path / "gone.csv")) == 1
    (clips / "e.mp4").unlink()
    assert remove_clips(out, missing=True) == 1
    assert names(out) == ["c.mp4"]
    with pytest.raises(IndexFolderError, match="no clip fits 'x.mp4'"):
        remove_clips(out, pattern="x.mp4")
    assert remove_clips(out, pattern=str(clips)) == 1
    assert len(VectorIndex.open(out)) == 0


def test_a_file_has_one_path_however_it_was_named(clips, tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists/clips.csv"
    table.write_text("path\n../clips/a.mp4\n../clips/b.mp4\n")
    out = tmp_path / "index"
    build(table, out)
    index = VectorIndex.open(out)
    assert [entry.path for entry in index.entries()] == [str(clips / "a.mp4"), str(clips / "b.mp4")]
    monkeypatch.chdir(tmp_path)
    assert parse_queries(index, ["clips/b.mp4"])[0].row == 1
    assert allowed_rows(index, ["path=lists/../clips"]).all()
    assert [name for name, _ in build(clips, out)[0]] == ["c.mp4", "d.mp4", "e.mp4"]
    assert remove_clips(out, pattern=str(table)) == 2
    assert remove_clips(out, pattern="lists/../clips/c.mp4") == 1


def test_a_path_keeps_dots_that_lead_through_a_symbolic_link(tmp_path):
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "far/a.mp4").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "far/deep")
    entry = read(tmp_path / "link/../a.mp4").entry(0)
    assert Path(entry.path).read_text() == "a"
