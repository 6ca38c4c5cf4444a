"""Hits against a plain loop over all rows."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from indexed import unit_vectors, write_index

from finetune.retrieval.hits import SearchOptions, search
from finetune.retrieval.query import Query, entry_interval, overlaps, parse_queries
from finetune.vector_index.entry import Entry


def plain_search(entries, vectors, query, vector, options):
    """The hits of one query, (row, score), by a loop over all rows from the best."""
    scores, hits = vectors @ vector, []
    for row in np.lexsort((np.arange(len(vectors)), -scores)).tolist():
        entry, mine = entries[row], query.entry
        same_file = mine is not None and entry.path == mine.path
        same_group = mine is not None and None is not entry.group == mine.group
        if not options.allowed[row] or (not options.same_group and (same_file or same_group)):
            continue
        if same_file and overlaps(entry_interval(entry), query.interval):
            continue
        better = [entries[other] for other, _ in hits]
        times = entry_interval(entry)
        if not any(entry.path == other.path and overlaps(times, entry_interval(other)) for other in better):
            hits.append((row, scores[row]))
    return hits[: options.top_k]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 80), top_k=st.integers(1, 30), same_group=st.booleans())
def test_hits_are_those_of_a_plain_loop(tmp_path_factory, seed, rows, top_k, same_group):
    rng = np.random.default_rng(seed)
    entries = []
    for file, start, length, group in rng.integers(0, (4, 30, 12, 4), (rows, 4)).tolist():
        times = (None, None) if length == 0 else (float(start), None if length == 11 else float(start + length))
        entries.append(Entry(f"/{file}.mp4", *times, group=f"g{group}" if group else None))
    vectors = unit_vectors(rows, 4, seed=seed)
    index = write_index(tmp_path_factory.mktemp("index"), entries, vectors)
    queries = [Query("row", entries[0], 0), Query("new", Entry("/0.mp4", 3.0, 9.0, group="g1")), Query("words")]
    chosen = np.stack([vectors[0], *unit_vectors(2, 4, seed=seed + 1)])
    options = SearchOptions(top_k, rng.random(rows) < 0.9, same_group=same_group)
    for hits, query, vector in zip(search(index, queries, chosen, options), queries, chosen, strict=True):
        expected = plain_search(entries, vectors, query, vector, options)
        assert [hit.row for hit in hits.hits] == [row for row, _ in expected]
        assert np.allclose([hit.score for hit in hits.hits], [score for _, score in expected], atol=1e-6)
        assert all(hit.entry == entries[hit.row] for hit in hits.hits)
        assert hits.query is query


def test_a_link_in_the_index_to_the_file_of_the_query_is_no_hit(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    index = write_index(tmp_path / "index", [Entry(f"{tmp_path}/link.mp4"), Entry("/other.mp4")])
    queries = parse_queries(index, [f"{tmp_path}/a.mp4"])
    (hits,) = search(index, queries, unit_vectors(1), SearchOptions())
    assert [hit.entry.path for hit in hits.hits] == ["/other.mp4"]


def test_of_a_long_recording_the_best_windows_are_found_behind_many_that_overlap_them(tmp_path):
    steps = np.arange(2000) * 0.01
    entries = [Entry("/long.mp4", float(start), float(start) + 4.0) for start in steps]
    angles = np.linspace(0, 1, 2000)
    index = write_index(tmp_path, entries, np.stack([np.cos(angles), np.sin(angles)], 1))
    (hits,) = search(index, [Query("words")], np.array([[1, 0]], np.float32), SearchOptions(top_k=5))
    assert [round(hit.entry.start, 2) for hit in hits.hits] == [0, 4, 8, 12, 16]
