"""Exact search is fast, writing and searching take constant memory, and what a graph of near vectors adds.

python benchmarks/vector_index.py exact [--rows 200000]      100 queries, against one product over an array in memory
python benchmarks/vector_index.py memory [--rows 1000000]    peak memory of writing and of searching, at a tenth and all
python benchmarks/vector_index.py graphs [--rows 20000]      usearch against faiss-cpu: time, memory, recall@10
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from finetune.vector_index.entry import EmbeddingSource, Entry
from finetune.vector_index.index import VectorIndex
from finetune.vector_index.nearest import nearest
from finetune.vector_index.writer import IndexWriter

DIM, QUERIES, TOP_K = 512, 100, 10
SOURCE = EmbeddingSource("backbone", "random", "0" * 64, DIM, {})


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(count, seed):
    return unit(np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32))


def clustered_vectors(count, seed):
    """500 clusters in 32 dimensions, mapped to 512, with noise: nearer to features of a network than random ones."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    mapping, centres = fixed.normal(size=(32, DIM)), fixed.normal(size=(500, 32))
    points = centres[rng.integers(0, 500, count)] + 0.5 * rng.normal(size=(count, 32))
    return unit(points @ mapping + 0.5 * rng.normal(size=(count, DIM)))


def write(folder, rows):
    with IndexWriter(folder, SOURCE) as writer:
        for first in range(0, rows, 5000):
            count = min(5000, rows - first)
            entries = [Entry(f"/videos/{first + n}.mp4", labels={"label": ["a"]}, group=f"g{n}") for n in range(count)]
            writer.add(entries, random_vectors(count, 1 + first))


def plain_search(vectors, queries):
    scores = queries @ vectors.T
    best = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)


def clocked(function, repeats=5):
    """The result, and the least wall and CPU seconds of some calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter(), time.process_time()
        result = function()
        times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return result, *np.min(times, axis=0)


def exact(rows, folder):
    write(folder, rows)
    index, queries = VectorIndex.open(folder), random_vectors(QUERIES, 0)
    vectors = np.concatenate([block for _, block in index.shards()])
    units = index.units()
    found, wall, cpu = clocked(lambda: nearest(index, queries, top_k=TOP_K))
    rows_of_plain, plain_wall, plain_cpu = clocked(lambda: plain_search(vectors, queries))
    assert (found.rows_QK == rows_of_plain).all()
    left_out = {"unit_ids": units, "query_units": units[:QUERIES]}
    _, units_wall, units_cpu = clocked(lambda: nearest(index, queries, top_k=TOP_K, **left_out))
    _, one_wall, one_cpu = clocked(lambda: nearest(index, queries[:1], top_k=TOP_K))
    print(f"{rows} vectors of {DIM}, {QUERIES} queries: seconds of wall clock (of CPU)")
    print(f"  from the folder               {wall:.2f} ({cpu:.2f})")
    print(f"  the same file left out        {units_wall:.2f} ({units_cpu:.2f})")
    print(f"  one query                     {one_wall:.2f} ({one_cpu:.2f})")
    print(f"  one product over an array     {plain_wall:.2f} ({plain_cpu:.2f}): {plain_wall / wall:.1f} × ours")


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(what, rows, folder):
    """In a process of its own: peak memory before and after."""
    before = peak_megabytes()
    if what == "write":
        write(folder, rows)
    else:
        index = VectorIndex.open(folder)
        began = time.perf_counter()
        nearest(index, random_vectors(QUERIES, 0), top_k=TOP_K)
        print(f"    searched in {time.perf_counter() - began:.1f} s")
    print(f"  {what} {rows}: {before:.0f} MB before, at most {peak_megabytes():.0f} MB")


def memory(rows, folder):
    for count in (rows // 10, rows):
        for what in ("write", "search"):
            command = [sys.executable, __file__, "--child", what, "--rows", str(count), "--folder", f"{folder}/{count}"]
            subprocess.run(command, check=True)


def graphs(rows, _):
    import faiss
    from usearch.index import Index

    faiss.omp_set_num_threads(1)
    for draw in (clustered_vectors, random_vectors):
        vectors, queries = draw(rows, 1), draw(QUERIES, 2)
        true, _, cpu = clocked(lambda: plain_search(vectors, queries))  # noqa: B023
        print(f"{draw.__name__}, {rows} rows; exact: {cpu / QUERIES * 1e3:.2f} ms a query (CPU, in one batch)")
        for name in ("usearch f32", "usearch i8", "faiss HNSW"):
            began, before = time.process_time(), peak_megabytes()
            if name == "faiss HNSW":
                graph = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
                graph.hnsw.efConstruction = 64
                graph.add(vectors)
            else:
                graph = Index(ndim=DIM, metric="cos", dtype=name[8:], connectivity=16, expansion_add=64)
                graph.add(np.arange(rows), vectors, threads=1)
            built = time.process_time() - began
            print(f"  {name}: built in {built:.0f} s, peak memory + {peak_megabytes() - before:.0f} MB", flush=True)
            for expansion in (64, 256, 1024, 4096, 16384):
                search = faiss_search if name == "faiss HNSW" else usearch_search
                rows_found, _, cpu = clocked(lambda: search(graph, queries, vectors, expansion), repeats=1)  # noqa: B023
                recall = np.mean([np.isin(a, b).mean() for a, b in zip(true, rows_found, strict=True)])
                ms = cpu / QUERIES * 1e3
                print(f"    {expansion} candidates: recall@10 {recall:.3f}, {ms:.2f} ms a query", flush=True)
                if recall >= 0.95:
                    break


def usearch_search(graph, queries, vectors, expansion):
    """With exact scores of the best 40, as the index does."""
    graph.expansion_search = expansion
    keys = graph.search(queries, 4 * TOP_K, threads=1).keys.astype(int)
    scores = np.einsum("qkd,qd->qk", vectors[keys], queries)
    return np.take_along_axis(keys, np.argsort(-scores, axis=1)[:, :TOP_K], 1)


def faiss_search(graph, queries, _, expansion):
    graph.hnsw.efSearch = expansion
    return graph.search(queries, TOP_K)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("exact", "memory", "graphs"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--child", choices=("write", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        memory_of(options.child, options.rows, options.folder)
        return
    parts = {"exact": (exact, 200_000), "memory": (memory, 1_000_000), "graphs": (graphs, 20_000)}
    for name in [options.what] if options.what else parts:
        function, rows = parts[name]
        with tempfile.TemporaryDirectory() as folder:
            function(options.rows or rows, Path(folder) / "index")


if __name__ == "__main__":
    main()
