"""The page of a search: pictures of queries and hits, and the call that writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.cli.search_output import label_cells
from finetune.report.pages.search import PageClip, PageQuery, write_search_page
from finetune.retrieval.clip_pictures import ClipPicture, clip_pictures
from finetune.retrieval.hits import Hits
from finetune.retrieval.query import entry_interval, entry_name
from finetune.vector_index.entry import Entry
from finetune.vector_index.index import VectorIndex

MAX_PICTURES = 300  # on the page, of the first clips


def write_page_of_hits(file: Path, found: Sequence[Hits], index: VectorIndex) -> None:
    """Write the page. A clip that cannot be read is shown without a picture, and says why."""
    entries = {entry_name(entry): entry for hits in found for entry in _entries(hits)}
    shown = list(entries.values())[:MAX_PICTURES]
    pictures = dict(zip(entries, clip_pictures(shown), strict=False))
    queries = [
        PageQuery(
            hits.query.name,
            None if hits.query.entry is None else _clip(hits.query.entry, pictures),
            [(hit.score, _clip(hit.entry, pictures)) for hit in hits.hits],
        )
        for hits in found
    ]
    write_search_page(queries, path=file, index=index.folder.resolve().name, num_rows=len(index))


def _entries(hits: Hits) -> list[Entry]:
    query = [] if hits.query.entry is None else [hits.query.entry]
    return [*query, *(hit.entry for hit in hits.hits)]


def _clip(entry: Entry, pictures: Mapping[str, ClipPicture]) -> PageClip:
    picture = pictures.get(entry_name(entry), ClipPicture(None, is_playable=Path(entry.path).is_file()))
    labels = ", ".join(filter(None, label_cells(entry).values()))
    return PageClip(entry.path, entry_interval(entry), labels, picture.jpeg, picture.is_playable, picture.problem)
