"""Where the labels of a run's clips are corrected, and the clips of a folder that have no label yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.read import find_media, read_csv
from finetune.errors import DataError
from finetune.labelling.journal import ASSIGNED, Journal
from finetune.recipe.tasks import DEFAULT_TASK
from finetune.run.manifest import reads_image_sequences, saved_manifest
from finetune.run.read import Run
from finetune.storage.object_store import is_url

LABEL = "label"  # the column of a run with one task


def data_place(run: Run) -> Path | None:
    """The manifest or folder that a run was trained on, beside which its journal is; None where it is not there now.

    A relative path is that of the folder in which training was started, which a run does not record. It is looked for
    in the current folder and in those above the run and above its clips; a CSV that names no clip of the run is another
    project's.
    """
    place = run.recipe.data.manifest or run.recipe.data.folder
    if place is None or is_url(place):
        return None
    rows = saved_manifest(run, needs_files=False)
    clips = [rows.path(row) for row in range(len(rows))]
    folders = [Path(), *run.folder.resolve().parents, *(clips[0].parents if clips else ())]
    places = [folder / place for folder in folders if (folder / place).exists()]
    return next((place for place in places if not clips or _has_clip(place, clips)), None)


def _has_clip(place: Path, clips: Sequence[Path]) -> bool:
    """Whether a folder or a CSV has one of the clips, by the ends of their paths: all may have been moved."""
    if place.is_dir():
        return any((place / Path(*clip.parts[-length:])).exists() for clip in clips for length in (1, 2, 3))
    ends = {clip.parts[-length:] for clip in clips for length in (1, 2)}
    try:
        return any(Path(path).parts[-2:] in ends for path in read_csv(place, labels="of tasks")["path"])
    except DataError:
        return False


def manifest_of(run: Run) -> Path | None:
    """The CSV or the folder that a run was trained on, or the run's own copy of the rows where that is gone.

    None for an exported model that lies in no run folder.
    """
    copy = saved_manifest(run, needs_files=False).source
    return data_place(run) or (copy if copy.is_file() else None)


def label_column(run: Run, task: str, *, is_copy: bool) -> str | None:
    """The column of the manifest that has the labels of a task; None where it has no single one."""
    if task == DEFAULT_TASK and not run.recipe.tasks:
        return LABEL
    settings = run.recipe.tasks[task]
    if not run.outputs[task].is_categorical:
        return None
    if is_copy:
        return f"{task}.{LABEL}"
    columns = settings.columns_of(task)
    return columns[0] if settings.manifest is None and len(columns) == 1 else None


def find_unlabelled(run: Run, folder: Path) -> list[Path]:
    """The clips below a folder, sorted, without the run's rows, and without those that a journal labels or calls bad.

    The journals are that of the run's data and that of the folder. Raises DataError where no clip is left, or there is
    no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    clips = find_media(folder, image_sequences=reads_image_sequences(run))
    rows = saved_manifest(run, needs_files=False)
    known = {rows.path(row).resolve() for row in range(len(rows))}
    for place in (folder, manifest_of(run)):
        known.update(_decided(Journal(place)) if place is not None else ())
    left = [clip for clip in clips if clip.resolve() not in known]
    if not left:
        raise DataError(f"{folder}: all of its {len(clips)} clips are labelled")
    return left


def _decided(journal: Journal) -> Iterator[Path]:
    """The files that the journal gives a label of any task, or calls bad."""
    for (clip, field), value in journal.values().items():
        if value and field not in ASSIGNED:
            yield (journal.clips.root / clip.path).resolve()
