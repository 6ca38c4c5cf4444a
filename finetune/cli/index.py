"""`finetune index`: compute a vector for each clip or window, and keep them in a folder that can be searched."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.arguments import Overrides, OwnParts, RunOption
from finetune.cli.heavy_imports import import_quickly
from finetune.cli.input_files import FileCounts
from finetune.cli.progress import progress_bars
from finetune.errors import RecipeError, VideoError
from finetune.text import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from finetune.cli.index_request import IndexRequest
    from finetune.retrieval.embedder import Embedder

LONG_SECONDS = 60.0  # a note names the number of longer files that get one vector
NOTE_WINDOW = 5  # seconds of a window, as that note proposes


def index(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Index folder.")],
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Videos: a folder, a CSV, a recording, or a recipe.")
    ] = None,
    overrides: Overrides = None,
    run: RunOption = None,
    window: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Recordings: a vector for each window of this length.")
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Seconds from window to window. Default: a quarter of a window."),
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Add new and changed files to an index.")] = False,
    remove: Annotated[
        str | None,
        typer.Option(metavar="PATTERN|CSV", help="Remove files by a pattern of their paths, or the rows of a CSV."),
    ] = None,
    remove_missing: Annotated[
        bool, typer.Option("--remove-missing", help="Remove files that do not exist any more.")
    ] = False,
    parts: OwnParts = None,
) -> None:
    """Compute a vector for each clip, to be searched.

    With a run, its features before the head; else those of a frozen backbone,
    model.backbone=NAME, averaged over time. model.temporal=concat keeps frames
    in order. After Ctrl-C or a kill the same command continues.

    Example: finetune index DIR --out index model.backbone=resnet50.a1_in1k
    """
    if remove is not None or remove_missing:
        given = {"SOURCE": source, "--run": run, "--window": window, "--step": step, "--add": add}
        _remove(out, remove, remove_missing, [name for name, value in given.items() if value])
        return
    if source is None:
        raise RecipeError("the videos are missing: finetune index SOURCE --out DIR")
    from finetune.cli.index_request import IndexOptions, read_request

    request = read_request(IndexOptions(source, overrides or (), out, run, window, step, add, parts or ()))
    plan, noun = request.plan, "clip" if request.windows is None else "recording"
    if plan.present:
        print(f"{count(plan.present, noun)} already in the index", file=sys.stderr)
    if plan.repeated:
        print(f"note: {count(plan.repeated, 'row')} left out, as the same clip is in an earlier row", file=sys.stderr)
    skipped = _build(request, parts or ()) if len(plan.missing) or plan.outdated else 0
    _print_result(out)
    if skipped:
        print(f"finetune: {skipped} of {count(len(plan.missing), noun)} are not in the index", file=sys.stderr)
        raise typer.Exit(1)


def _remove(out: Path, pattern: str | None, missing: bool, others: list[str]) -> None:
    from finetune.retrieval.remove_clips import remove_clips

    if others:
        raise RecipeError(f"--remove and --remove-missing only remove; leave out {', '.join(others)}")
    removed = remove_clips(out, pattern=pattern, missing=missing)
    print(f"removed {count(removed, 'vector')}", file=sys.stderr)
    _print_result(out)


def _print_result(out: Path) -> None:
    from finetune.vector_index.index import VectorIndex

    index = VectorIndex.open(out)
    print(f"{count(len(index), 'vector')} of {index.source.dim:,} numbers in {out}")
    if len(index):
        query = '--text "WORDS"' if index.source.kind == "text" else "VIDEO"
        print(f"search: finetune search {shlex.quote(str(out))} {query}", flush=True)


def _build(request: IndexRequest, parts: Sequence[str]) -> int:
    """Embed what is missing, and name what cannot be read; gives the number of those."""
    import_quickly("finetune.retrieval.open_embedder")
    from finetune.retrieval.build_index import build_index

    counts = FileCounts()
    try:
        with progress_bars() as show:
            if request.windows is None:
                _note_long_files(request, lambda done, total: show("checking files", done, total))
            embedder = _open_embedder(request, parts)
            options: dict[str, Any] = {"windows": request.windows, "progress": show}
            with closing(build_index(embedder, request.rows, request.out, request.plan, **options)) as results:
                _count_results(results, counts)
    except KeyboardInterrupt:
        print(f"Stopped; what is finished is kept in {request.out}. The same command continues.", file=sys.stderr)
        raise
    if request.existing is None and len(request.plan.missing):
        counts.require_done()
    return counts.skipped


def _count_results(results: Iterator[tuple[str, str | None]], counts: FileCounts) -> None:
    for _, reason in results:
        with counts.count_file():
            if reason is not None:
                raise VideoError(reason)


def _open_embedder(request: IndexRequest, parts: Sequence[str]) -> Embedder:
    """The embedder of the request; an index that is added to keeps its own unless another is named."""
    from finetune.recipe.own_parts import import_named_parts
    from finetune.retrieval.open_embedder import new_embedder, open_embedder
    from finetune.retrieval.run_embedder import RunEmbedder

    if request.run is not None:
        return RunEmbedder(request.run)
    if request.recipe is not None:
        return new_embedder(request.recipe)
    assert request.existing is not None
    image_rate = request.rows.manifest.image_rate
    return open_embedder(request.existing.source, parts=import_named_parts(parts), image_rate=image_rate)


def _note_long_files(request: IndexRequest, progress: Callable[[int, int], None]) -> None:
    """Say of long files that one vector is of the whole file; examines the files."""
    from finetune.video.probe_files import scan_files

    manifest = request.rows.manifest
    facts = scan_files(manifest, progress=progress)
    assert facts.seconds is not None
    long = int((facts.seconds[request.plan.missing] > LONG_SECONDS).sum())
    if long and manifest.intervals is None:
        print(
            f"note: {count(long, 'file')} longer than {LONG_SECONDS:.0f} s, with one vector for the whole file; "
            f"--window {NOTE_WINDOW} makes one for every {NOTE_WINDOW} seconds",
            file=sys.stderr,
        )
