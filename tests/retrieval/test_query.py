"""Queries by file, part of a file, row and words, and what is wrong with others."""

import math

import numpy as np
import pytest
from grey import make_clip, make_images
from indexed import write_index

from finetune.data.intervals import WHOLE
from finetune.errors import DataError, IndexFolderError
from finetune.retrieval.query import check_readable, parse_queries
from finetune.retrieval.query_vectors import query_vectors
from finetune.vector_index.entry import Entry


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """The current folder, with clips whose names look like intervals and rows, and an index of some files."""
    monkeypatch.chdir(tmp_path)
    for name in ("new.mp4", "odd@1-2.mp4", "odd@1-2", "row:1", "known.mp4", "rec.mp4"):
        (tmp_path / name).write_bytes(b"")
    windows = [Entry(f"{tmp_path}/rec.mp4", start, start + 4.0, group="tall") for start in (0.0, 2.0, 4.0)]
    gone = [Entry("/gone/a.mp4", group="small"), Entry("/gone/b.mp4", 0.0, 2.0), Entry("/gone/b.mp4", 2.0, 4.0)]
    return write_index(tmp_path / "index", [Entry(f"{tmp_path}/known.mp4", group="tall"), *windows, *gone])


@pytest.mark.parametrize(
    ("text", "row", "interval", "group"),
    [
        ("new.mp4", None, WHOLE, None),
        ("new.mp4@12.5-14", None, (12.5, 14), None),
        ("new.mp4@,5-1,25", None, (0.5, 1.25), None),
        ("new.mp4@12.5-", None, (12.5, math.inf), None),
        ("odd@1-2.mp4", None, WHOLE, None),
        ("odd@1-2.mp4@3-4", None, (3, 4), None),
        ("odd@1-2", None, WHOLE, None),
        ("./row:1", None, WHOLE, None),
        ("row:1", None, WHOLE, None),
        ("row:5", 5, (0, 2), None),
        ("known.mp4", 0, WHOLE, "tall"),
        ("./index/../known.mp4", 0, WHOLE, "tall"),
        ("known.mp4@0-1", None, (0, 1), "tall"),
        ("rec.mp4", None, WHOLE, "tall"),
        ("rec.mp4@2-6", 2, (2, 6), "tall"),
        ("rec.mp4@3-6", None, (3, 6), "tall"),
        ("/gone/a.mp4", 4, WHOLE, "small"),
        ("/gone/b.mp4@2-4", 6, (2, 4), None),
    ],
)
def test_a_query_is_a_row_where_the_index_has_just_this_clip_and_else_a_file(clips, text, row, interval, group):
    (query,) = parse_queries(clips, [text])
    assert (query.name, query.row, query.interval, query.entry.group) == (text, row, interval, group)
    assert row is not None or query.entry.path.startswith(str(clips.folder.parent))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a query is empty"),
        ("nowhere.mp4", "nowhere.mp4: there is no such file, and the index has no row of it"),
        ("nowhere.mp4@1-2", "nowhere.mp4: there is no such file, and the index has no row of it"),
        ("row:7", "there is no row 7; it has 7 rows, counted from 0"),
        ("row:-1", "row:-1: a row is a number that counts from 0"),
        ("row:x", "row:x: a row is a number"),
        ("new.mp4@5", "new.mp4@5: after @ stands an interval in seconds, such as @12.5-14"),
        ("new.mp4@-5", "after @ stands an interval in seconds"),
        ("new.mp4@3-2", "new.mp4@3-2: the interval has to end after it starts"),
        ("new.mp4@2-2", "the interval has to end after it starts"),
        ("new.mp4@1:02-1:05", "'1:02' is no time in seconds, such as 12.5 (62.5 for 00:01:02.5)"),
        ("/gone/b.mp4", "of its 2 rows in the index none is this part of it; name a row, such as row:5 (0–2 s)"),
        ("/gone/b.mp4@1-3", "none is this part of it; name a row, such as row:5"),
        ("index", "index: is a folder of several files; name the ones to search for"),
        ("clips.csv", "clips.csv: is a table; a query is a video"),
    ],
)
def test_a_query_that_means_nothing_is_refused(clips, text, message):
    (clips.folder.parent / "clips.csv").write_text("path\nnew.mp4\n")
    (clips.folder / "a.mp4").write_bytes(b"")
    (clips.folder / "b.mov").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        parse_queries(clips, [text])
    assert message in str(caught.value)


def test_all_problems_are_named_at_once(clips):
    with pytest.raises(DataError) as caught:
        parse_queries(clips, ["nowhere.mp4", "row:99", "new.mp4", "nowhere.mp4"])
    places = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert places == ["nowhere.mp4", str(clips.folder), f"{clips.folder.parent}/new.mp4"]


def test_words_need_an_index_that_knows_them(clips, tmp_path):
    with pytest.raises(IndexFolderError, match="was made with tiny, which knows no words; --text needs an index"):
        parse_queries(clips, [], ["a person kicks"])
    spoken = write_index(tmp_path / "spoken", 3, kind="text")
    with pytest.raises(DataError, match="--text: the words are empty"):
        parse_queries(spoken, [], [" "])
    (query,) = parse_queries(spoken, [], ["a person kicks"])
    assert (query.name, query.words, query.entry, query.row) == ("“a person kicks”", "a person kicks", None, None)


def test_an_empty_index_is_refused(tmp_path):
    with pytest.raises(IndexFolderError, match="the index is empty; add videos"):
        parse_queries(write_index(tmp_path, [], np.empty((0, 4))), ["row:0"])


def test_a_symbolic_link_to_a_file_of_the_index_is_that_file(clips):
    (clips.folder.parent / "link.mp4").symlink_to("known.mp4")
    assert parse_queries(clips, ["link.mp4"])[0].row == 0


def test_unreadable_files_and_intervals_beyond_the_end_are_named_together(tmp_path):
    clip, images = make_clip(tmp_path / "a.mp4", 10), make_images(tmp_path / "images", 10)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    index = write_index(tmp_path / "index", 2)
    good = [f"{clip}@0.1-0.3", str(clip), str(images), f"{images}@1-2", f"{images}/img_00001.png", "row:1"]
    check_readable(parse_queries(index, good), image_rate=5.0)
    bad = [f"{clip}@7-8", f"{tmp_path}/bad.mp4", f"{tmp_path}/bad.png", f"{images}@1-2"]
    with pytest.raises(DataError) as caught:
        check_readable(parse_queries(index, [*good[:3], *bad]), image_rate=25.0)
    lines = str(caught.value).splitlines()
    assert "a.mp4: has no frame in 7–8 s; it lasts 0.40 s" in lines[0]
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in lines] == ["a.mp4", "bad.mp4", "bad.png", "images"]


class FakeEmbedder:
    """Gives a file the vector whose first number is 1 if it can be read; words the last one."""

    def embed(self, clips, *, progress=None):
        for row in reversed(range(len(clips))):
            start, _ = clips.interval(row)
            is_bad = clips.path(row).name == "bad.mp4"
            yield row, None if is_bad else np.eye(8)[int(start)], "cannot be decoded" if is_bad else None

    def embed_text(self, texts):
        return np.tile(np.eye(8)[7], (len(texts), 1))


def test_rows_have_their_stored_vectors_and_other_queries_are_embedded_in_their_order(tmp_path):
    index = write_index(tmp_path / "index", 4, kind="text")
    for name in ("a.mp4", "bad.mp4"):
        (tmp_path / name).write_bytes(b"")
    texts = [f"{tmp_path}/a.mp4@2-3", "row:1", f"{tmp_path}/a.mp4"]
    found = query_vectors(index, parse_queries(index, texts, ["words"]), FakeEmbedder())
    expected = [np.eye(8)[2], index.vector(1), np.eye(8)[0], np.eye(8)[7]]
    assert np.array_equal(found, np.array(expected, dtype=np.float32))
    assert np.array_equal(query_vectors(index, parse_queries(index, ["row:3"])), [index.vector(3)])
    with pytest.raises(DataError, match="bad.mp4@1-2: cannot be decoded"):
        query_vectors(index, parse_queries(index, [f"{tmp_path}/bad.mp4@1-2"]), FakeEmbedder())
