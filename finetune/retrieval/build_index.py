"""Build an index: embed the rows that it lacks; what is finished is kept whenever the program stops."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from finetune.errors import VideoError
from finetune.retrieval.build_plan import UNFINISHED_FILE, BuildPlan, WindowLengths, entry_hash, with_windows
from finetune.retrieval.embedder import Embedder, WindowVector
from finetune.retrieval.indexed_rows import IndexedRows
from finetune.vector_index.entry import Entry
from finetune.vector_index.writer import IndexWriter

EMBEDDING, EMBEDDING_SECONDS = "embedding clips", "embedding recordings, seconds"
Progress = Callable[[str, int, int], None]  # called with (what, done, total)
Result = tuple[str, str | None]  # the name of a clip or recording that is done, and why it is not in the index


def build_index(
    embedder: Embedder,
    rows: IndexedRows,
    folder: Path,
    plan: BuildPlan,
    *,
    windows: WindowLengths | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Generator[Result, None, None]:
    """Add the rows that are missing by the plan, as whole rows or in windows; gives each that is done.

    Raises IndexFolderError where the folder is no index, or one of another model.
    """
    with IndexWriter(folder, with_windows(embedder.source, windows)) as writer:
        unfinished = folder / UNFINISHED_FILE
        unfinished.touch()
        in_windows = windows is not None
        if plan.outdated:
            writer.remove(lambda entry: entry_hash(entry, in_windows) in plan.outdated)
        if windows is None:
            yield from _add_rows(embedder, rows, writer, plan, progress)
        else:
            yield from _Recordings(embedder, writer, windows, progress).add(rows, plan)
        writer.flush()
        unfinished.unlink(missing_ok=True)


def _add_rows(
    embedder: Embedder, rows: IndexedRows, writer: IndexWriter, plan: BuildPlan, progress: Progress
) -> Iterator[Result]:
    for row, vector_D, reason in embedder.embed(rows.manifest, plan.missing, progress=partial(progress, EMBEDDING)):
        if vector_D is not None:
            writer.add([rows.entry(row)], vector_D[None])
        yield rows.manifest.clip_name(row), reason


@dataclass(frozen=True)
class _Recordings:
    """Adds the windows of recordings to an index, one recording after the other."""

    embedder: Embedder
    writer: IndexWriter
    windows: WindowLengths
    progress: Progress

    def add(self, rows: IndexedRows, plan: BuildPlan) -> Iterator[Result]:
        for row in plan.missing.tolist():
            entry, (continued, number) = rows.entry(row), plan.continued
            first = number if entry.path == continued else 0
            try:
                for window in self._vectors(Path(entry.path), first):
                    self.writer.add([replace(entry, start=window.start, end=window.end)], window.vector_D[None])
            except VideoError as error:
                self.writer.remove(partial(_is_of_file, entry.path))
                yield entry.path, str(error)
            else:
                yield entry.path, None

    def _vectors(self, path: Path, first: int) -> Iterator[WindowVector]:
        return self.embedder.embed_windows(
            path,
            self.windows,
            first_window=first,
            progress=lambda done, total: self.progress(EMBEDDING_SECONDS, round(done), max(1, round(total))),
        )


def _is_of_file(path: str, entry: Entry) -> bool:
    return entry.path == path
