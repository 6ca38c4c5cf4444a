"""Write and read the objects that a model detects in the frames of an evaluation, and the counts of each frame."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.data.manifest import Manifest
from finetune.errors import RunError
from finetune.recipe.object_fields import DETECTION_FIELDS
from finetune.run.folder import EvaluationFolder
from finetune.run.predictions_csv import clip_name_of
from finetune.storage.atomic import atomic_file
from finetune.text import from_spreadsheet_cell, spreadsheet_row

_NUMBERS = tuple(name for name in DETECTION_FIELDS if name != "class")


class Detection(NamedTuple):
    """A detected object: its box in pixels of the video, left, top, width, height, and its motion in pixels per frame.

    `motion` is None where the task predicts none; `track`, the identity in the file, where the object has none.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    motion: tuple[float, float] | None
    track: int | None


def write_detections(
    folder: Path,
    manifest: Manifest,
    rows: np.ndarray,
    detections_ND8: np.ndarray,
    *,
    task: str,
    tracks_ND: np.ndarray | None,
) -> None:
    """Write the detections of `rows` (N,) with a score above 0, a line each.

    `tracks_ND` are their identities, -1 for none; None where labels have none.
    """
    names = manifest.tasks[task].names
    score, code = DETECTION_FIELDS.index("score"), DETECTION_FIELDS.index("class")
    columns = ["class", *_NUMBERS, *(["track"] if tracks_ND is not None else [])]
    with _csv_writer(EvaluationFolder(folder).detections(task)) as writer:
        writer.writerow([*manifest.clip_columns, *columns])
        for index, row in enumerate(rows.tolist()):
            for place in np.flatnonzero(detections_ND8[index, :, score] > 0):
                values = dict(zip(DETECTION_FIELDS, detections_ND8[index, place].tolist(), strict=True))
                numbers = [_number_text(values[name]) for name in _NUMBERS]
                identity = [] if tracks_ND is None else [_identity_text(int(tracks_ND[index, place]))]
                cells = [*manifest.clip_cells(row), names[int(detections_ND8[index, place, code])]]
                writer.writerow(spreadsheet_row([*cells, *numbers, *identity]))


def write_frame_counts(
    folder: Path, manifest: Manifest, rows: np.ndarray, columns: Mapping[str, Sequence[Any]], *, task: str
) -> None:
    """Write one line for each frame, of `rows` (N,): its name and the values (N,) of `columns`, empty for None."""
    with _csv_writer(EvaluationFolder(folder).predictions(task)) as writer:
        writer.writerow([*manifest.clip_columns, "group", *columns])
        for row, *values in zip(rows.tolist(), *columns.values(), strict=True):
            group = "" if manifest.groups is None else manifest.groups[row]
            cells = ["" if value is None else value for value in values]
            writer.writerow(spreadsheet_row([*manifest.clip_cells(row), group, *cells]))


def read_detections(evaluation: EvaluationFolder, task: str) -> dict[str, list[Detection]]:
    """The detections of each clip that has any, by its name, best first. Raises RunError for a damaged file."""
    path, by_clip = evaluation.detections(task), dict[str, list[Detection]]()
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                by_clip.setdefault(clip_name_of(row), []).append(_parse_detection(row))
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(f"{path}, row {number}: is no detection ({error!r}); evaluate the run again") from error
    return by_clip


def _parse_detection(row: Mapping[str, str]) -> Detection:
    left, top, width, height, score = (float(row[name]) for name in ("x", "y", "w", "h", "score"))
    motion = (float(row["dx"]), float(row["dy"])) if row["dx"] and row["dy"] else None
    track = int(row["track"]) if row.get("track") else None
    return Detection(from_spreadsheet_cell(row["class"]), score, (left, top, width, height), motion, track)


def _number_text(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _identity_text(identity: int) -> str:
    return "" if identity < 0 else str(identity)


@contextmanager
def _csv_writer(path: Path) -> Iterator[Any]:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        yield csv.writer(file)
