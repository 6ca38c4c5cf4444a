"""`finetune search`: the clips of an index that are most like a video, a part of one, a picture, or words."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.arguments import OwnParts
from finetune.cli.heavy_imports import import_quickly
from finetune.errors import IndexFolderError, RunError
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS

if TYPE_CHECKING:
    import numpy as np

    from finetune.retrieval.query import Query
    from finetune.run.read import Run
    from finetune.vector_index.approximate import Graph
    from finetune.vector_index.index import VectorIndex


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that `finetune index` wrote.")],
    queries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY",
            help="A video, a part of one (`file.mp4@12.5-14`, seconds), a picture, or a row of the index (`row:17`).",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="WORDS", help="Search by words, in an index of a model that knows them."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, metavar="K", help="Hits per query.")] = 10,
    within: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=NAME",
            help="Only rows with label=, split= or group= NAME, a task's label, or below path=FOLDER.",
        ),
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate", help="Search a graph of the vectors, built once: faster in large indexes, not exact."
        ),
    ] = False,
    same_group: Annotated[
        bool, typer.Option("--same-group", help="Keep hits of the query's own file and group, which are left out.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Print how well labelled rows find others of their class.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the hits or figures as JSON.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the hits into a CSV.")] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that plays queries and hits side by side.")
    ] = None,
    parts: OwnParts = None,
) -> None:
    """Search an index: which clips are most like a query?

    Hits of the query's own file and group are left out, as they would be found
    by the scene alone. Of windows that overlap, only the best is a hit.

    Example: finetune search clips.index kick.mp4 match.mp4@12.5-14
    """
    from finetune.cli.search_output import print_json, print_missing, print_tables, write_csv
    from finetune.retrieval.allowed_rows import allowed_rows
    from finetune.retrieval.hits import SearchOptions, search
    from finetune.retrieval.query import parse_queries
    from finetune.storage.atomic import check_writable
    from finetune.vector_index.index import VectorIndex

    if evaluate:
        if queries or text or approximate or csv_file or page:
            raise IndexFolderError(
                f"{index}: --evaluate takes the labelled rows of the index as queries; omit other queries, --text, "
                "--approximate, --csv and --page"
            )
        from finetune.cli.index_figures import print_index_figures

        print_index_figures(index, within=within or (), same_group=same_group, as_json=as_json)
        return
    if not queries and not text:
        raise IndexFolderError(f"{index}: nothing to search for; name a video, a picture, or a row such as row:0")
    opened = VectorIndex.open(index)
    parsed = parse_queries(opened, queries or (), text or ())
    files = [file for file in (csv_file, page) if file is not None]
    _refuse_inputs(files, parsed)
    for file in files:
        check_writable(file)
    allowed = allowed_rows(opened, within or ())
    vectors_QD = _vectors(opened, parsed, parts or ())
    graph = _open_graph(opened) if approximate else None
    found = search(opened, parsed, vectors_QD, SearchOptions(top_k, allowed, same_group=same_group, graph=graph))
    (print_json if as_json else print_tables)(found)
    print_missing(found, top_k, rows=len(opened) if allowed is None else int(allowed.sum()), same_group=same_group)
    if csv_file is not None:
        write_csv(csv_file, found)
    if page is not None:
        from finetune.cli.search_page import write_page_of_hits

        write_page_of_hits(page, found, opened)
    for file in files:
        print(file, file=sys.stderr if as_json else sys.stdout)


def _refuse_inputs(files: Sequence[Path], queries: Sequence[Query]) -> None:
    """Raise IndexFolderError where a file to be written is that of a query, or is named twice."""
    if len({file.resolve() for file in files}) < len(files):
        raise IndexFolderError(f"{files[0]}: --csv and --page need a file each")
    inputs = {Path(query.entry.path).resolve() for query in queries if query.entry is not None}
    for file in files:
        if file.resolve() in inputs:
            raise IndexFolderError(f"{file}: is also a query; write to another file")


def _open_graph(index: VectorIndex) -> Graph:
    """The graph for approximate search, built at first; prints its recall."""
    from finetune.cli.progress import progress_bar
    from finetune.vector_index.approximate import SAMPLE_TOP_K, open_graph

    with progress_bar("building the graph") as progress:
        graph = open_graph(index, progress=progress)
    print(
        f"approximate search: recall@{SAMPLE_TOP_K} {graph.recall:.3f}, measured on rows of the index", file=sys.stderr
    )
    return graph


def _vectors(index: VectorIndex, queries: Sequence[Query], parts: Sequence[str]) -> np.ndarray:
    """The vectors (Q, D) of queries; torch is imported only where one has to be computed."""
    from finetune.recipe.own_parts import import_named_parts
    from finetune.retrieval.query import check_readable
    from finetune.retrieval.query_vectors import query_vectors

    if all(query.row is not None for query in queries):
        return query_vectors(index, queries)
    own = import_named_parts(parts)
    image_rate = DEFAULT_IMAGE_FPS
    if index.source.kind == "run":
        image_rate = open_run_of_index(index, own).recipe.data.image_rate
    check_readable(queries, image_rate=image_rate)
    import_quickly("finetune.retrieval.open_embedder")
    from finetune.retrieval.open_embedder import open_embedder

    return query_vectors(index, queries, open_embedder(index.source, parts=own), image_rate=image_rate)


def open_run_of_index(index: VectorIndex, parts: Mapping[str, Any]) -> Run:
    """The run that made an index. Raises IndexFolderError where it is not there any more."""
    from finetune.run.read import open_run

    try:
        return open_run(index.source.name, parts=parts)
    except RunError as error:
        raise IndexFolderError(
            f"{index.folder}: was made with a run that cannot be opened ({error}); without it, only rows of "
            "the index can be searched for, such as row:0"
        ) from None
