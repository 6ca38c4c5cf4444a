"""Write a new manifest with the changes of the journal: other columns, their order, quotes and encoding stay."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.intervals import WHOLE, seconds_text
from finetune.data.labels import LABEL_SEPARATOR, split_labels
from finetune.data.manifest import Manifest
from finetune.data.read import read_csv, scan_folder
from finetune.errors import DataError, shorten_list, suggest_similar
from finetune.labelling.corrections import CellChange, Corrections, find_corrections, new_row_path
from finetune.labelling.csv_text import CsvText
from finetune.labelling.journal import ASSIGNED, Journal
from finetune.labelling.labelled_clips import Clip
from finetune.recipe.tasks import CATEGORICAL_KINDS
from finetune.run.manifest import saved_manifest
from finetune.run.read import Run
from finetune.storage.atomic import atomic_file, check_writable
from finetune.storage.object_store import is_url
from finetune.text import count


@dataclass(frozen=True)
class Applied:
    """The new manifest, the corrections in it, and notes for the user; `is_written` false: the file was the same."""

    out: Path
    manifest: Manifest
    corrections: Corrections
    notes: tuple[str, ...]
    is_written: bool

    def lines(self) -> list[str]:
        """What changed, as lines of text: counts of classes, splits and groups from → to, and the clips left out."""
        by_field: dict[str, Counter[str]] = {}
        for cell in self.corrections.cells:
            by_field.setdefault(cell.field, Counter())[f"{cell.old or '(none)'} → {cell.new or '(none)'}"] += 1
        lines = [
            f"{field}: {', '.join(f'{number} × {pair}' for pair, number in pairs.most_common())}"
            for field, pairs in sorted(by_field.items(), key=lambda item: (item[0] != "label", item[0]))
        ]
        clips = {"marked bad and left out": self.corrections.left_out, "added": list(self.corrections.added)}
        clips["not in the manifest any more"] = self.corrections.gone
        lines += [
            f"{count(len(names), 'clip')} {what}: {shorten_list([clip.name for clip in names])}"
            for what, names in clips.items()
            if names
        ]
        if self.corrections.num_done:
            lines.append(f"{count(self.corrections.num_done, 'change')} in the manifest already")
        return lines or ["no change is left"]


def default_output(manifest: Path) -> Path:
    """`clips.corrected.csv` beside `clips.csv`, or beside a folder `clips`."""
    place = manifest.resolve()
    return place.with_name(f"{place.name if place.is_dir() else place.stem}.corrected.csv")


@dataclass(frozen=True)
class ApplyOptions:
    """A `run` gives the recipe that reads the manifest, and the splits and groups that rows without them had there.

    Classes that no row had are refused unless they are in `new_classes`. `of_journal` decides cells that were edited in
    the manifest since they were changed, see `find_corrections`. An existing file with other content is only replaced
    with `overwrite`, and then kept as `NAME.bak`.
    """

    run: Run | None = None
    new_classes: Collection[str] = ()
    of_journal: bool | None = None
    overwrite: bool = False


def apply_changes(place: Path, options: ApplyOptions = ApplyOptions(), *, out: Path | None = None) -> Applied:
    """Write the manifest at `place` (a CSV, or a folder of clips) with the changes of its journal to `out`.

    The new manifest must be one that training accepts. Raises DataError where it is not, and nothing is written.
    """
    if not place.exists():
        raise DataError(f"there is no manifest or folder {str(place)!r}")
    journal = Journal(place)
    target = out or default_output(place)
    target = target.parent.resolve() / target.name
    check_writable(target)
    corrections = find_corrections(journal, of_journal=options.of_journal)
    if corrections.conflicts:
        raise DataError(
            "\n".join(f"{journal.clips.place}: {conflict}" for conflict in corrections.conflicts)
            + "\ndecide with --conflicts journal or --conflicts manifest"
        )
    table, clips = _read_table(journal, target.parent)
    _refuse_new_classes(table, corrections, options)
    notes = _fill_assigned(table, clips, corrections, options.run, journal)
    classes = _labels(table)
    _correct(table, clips, corrections, journal, target.parent)
    if gone := sorted(classes - _labels(table)):
        notes = (*notes, f"no clip is left with the label {shorten_list(gone)}")
    data = table.to_bytes()
    before = target.read_bytes() if target.exists() else None
    if before is not None and before != data and not options.overwrite:
        raise DataError(f"{target}: exists and has other content; give another --out FILE, or --overwrite it")
    if before == data:
        return Applied(target, _read_as_training(target, target, table, options.run), corrections, notes, False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as partial:
        partial.write_bytes(data)
        manifest = _read_as_training(partial, target, table, options.run)
        if before is not None:
            _keep(target)
    return Applied(target, manifest, corrections, notes, True)


def _read_table(journal: Journal, folder: Path) -> tuple[CsvText, list[Clip]]:
    """The table of the manifest, with paths for a CSV in `folder`, and the clip of each row."""
    root = journal.clips.root
    if journal.clips.is_folder:
        scan = scan_folder(root)
        if "unclear_images" in scan.problems:
            raise DataError(f"{root}: {scan.problems['unclear_images']}")
        clips = [journal.clips.clip(file) for file in scan.files]
        columns = {"path": [new_row_path(clip, root, folder) for clip in clips], "label": scan.labels}
        return CsvText.of_rows(columns | ({"split": scan.splits} if scan.splits else {})), clips
    source = journal.clips.place
    read = read_csv(source, labels="of tasks")
    table = CsvText(source.read_bytes(), source)
    assert len(table) == len(read.lines), source
    clips = journal.clips.clips_of(read)
    if folder != root:
        for row, path in enumerate(read["path"]):
            if not is_url(path) and not Path(path).is_absolute():
                table.set_value(row, "path", Path(os.path.relpath(root / path, folder)).as_posix())
    return table, clips


def _correct(table: CsvText, clips: list[Clip], corrections: Corrections, journal: Journal, folder: Path) -> None:
    rows_of: dict[Clip, list[int]] = {}
    for row, clip in enumerate(clips):
        rows_of.setdefault(clip, []).append(row)
    for change in corrections.cells:
        if not _has(table, change.field):
            table.add_column(change.field, [""] * len(table))
        for row in rows_of[change.clip]:
            table.set_value(row, change.field, change.new)
    for clip, values in corrections.added.items():
        places = [*(["start", "end"] if clip[1:3] != WHOLE else []), *(["boxes"] if clip.boxes else [])]
        for name in (*values, *places):
            if not _has(table, name):
                table.add_column(name, [""] * len(table))
        cells = {"path": new_row_path(clip, journal.clips.root, folder)}
        if _has(table, "start"):
            cells |= {"start": seconds_text(clip.start), "end": seconds_text(clip.end)}
        table.append(cells | ({"boxes": clip.boxes} if clip.boxes else {}) | values)
    table.remove({row for clip in corrections.left_out for row in rows_of[clip]})


def _labels(table: CsvText) -> set[str]:
    """The different texts of the column label."""
    return {table.value(row, "label") for row in range(len(table))}


def _has(table: CsvText, name: str) -> bool:
    return table.column(name) is not None


def _fill_assigned(
    table: CsvText, clips: list[Clip], corrections: Corrections, run: Run | None, journal: Journal
) -> tuple[str, ...]:
    """Give every row a split and a group where the manifest has none and one is changed; new rows go into train."""
    notes: list[str] = []
    changed = {cell.field for cell in corrections.cells} | {name for row in corrections.added.values() for name in row}
    assigned = {} if run is None else _assigned_by(run, journal)
    for name in ASSIGNED:
        is_filled = any(table.value(row, name) for row in range(len(table)))
        if is_filled or name not in changed:
            continue
        texts = [assigned.get(clip, {}).get(name, "") for clip in clips]
        if name == "split" and not all(texts):
            raise DataError(
                f"{journal.clips.place}: has no splits, so training assigns them; to change one, the others are needed "
                "too: pass the run whose splits you saw, --run RUN"
            )
        if name == "group" and not any(texts):
            notes.append("rows without a group are their own group; a recipe with data.group_pattern needs --run RUN")
        _set_column(table, name, texts)
    notes += _place_new_rows(table, clips, corrections)
    return tuple(notes)


def _assigned_by(run: Run, journal: Journal) -> dict[Clip, dict[str, str]]:
    rows = saved_manifest(run, needs_files=False)
    groups = [""] * len(rows) if rows.groups is None else rows.groups.tolist()
    return {
        journal.clips.clip(rows.path(row), *rows.interval(row), rows.boxes_cell(row)): {
            "split": str(rows.splits[row]),
            "group": groups[row],
        }
        for row in range(len(rows))
    }


def _set_column(table: CsvText, name: str, texts: list[str]) -> None:
    if not _has(table, name):
        table.add_column(name, texts)
    else:
        for row, text in enumerate(texts):
            table.set_value(row, name, text)


def _place_new_rows(table: CsvText, clips: list[Clip], corrections: Corrections) -> list[str]:
    """Where rows have splits, new rows without one get that of their file or group, or else train."""
    if not corrections.added or not any(table.value(row, "split") for row in range(len(table))):
        return []
    split_of: dict[tuple[str, str], str] = {}
    for row, clip in enumerate(clips):
        split_of["path", clip.path] = split_of["group", table.value(row, "group")] = table.value(row, "split")
    split_of.pop(("group", ""), None)
    in_train = 0
    for clip, values in corrections.added.items():
        known = split_of.get(("path", clip.path)) or split_of.get(("group", values.get("group", "")))
        in_train += "split" not in values and known is None
        values.setdefault("split", known or "train")
    return [f"{count(in_train, 'new clip')} without a split put into train"] if in_train else []


def _class_fields(run: Run | None) -> set[str]:
    """The columns that hold classes."""
    if run is None or not run.recipe.tasks:
        return {"label"}
    tasks = run.recipe.tasks.items()
    return {task.columns_of(name)[0] for name, task in tasks if task.kind in CATEGORICAL_KINDS}


def _refuse_new_classes(table: CsvText, corrections: Corrections, options: ApplyOptions) -> None:
    is_list = _is_multilabel(table, options.run)
    added = [CellChange(clip, name, "", text) for clip, row in corrections.added.items() for name, text in row.items()]
    for field in _class_fields(options.run):
        known = {name for row in range(len(table)) for name in _classes(table.value(row, field), is_list=is_list)}
        changes = [change for change in (*corrections.cells, *added) if change.field == field]
        names = {name for change in changes for name in _classes(change.new, is_list=is_list)}
        unknown = sorted(names - known - set(options.new_classes))
        if unknown and known:
            listed = shorten_list([f"{name}{suggest_similar(name, known)}" for name in unknown])
            raise DataError(
                f"new in {field}: {listed}; if a new class is meant, name it with --new-class, else correct the label"
            )


def _is_multilabel(table: CsvText, run: Run | None) -> bool:
    """Whether labels list several classes: as the run's recipe says, or else if any of them does or is empty."""
    if run is not None:
        return run.recipe.data.multilabel or bool(run.recipe.tasks)
    labels = [table.value(row, "label") for row in range(len(table))]
    return not all(labels) or any(LABEL_SEPARATOR in label for label in labels)


def _classes(text: str, *, is_list: bool) -> tuple[str, ...]:
    return split_labels(text) if is_list else (text,) if text else ()


def _read_as_training(partial: Path, target: Path, table: CsvText, run: Run | None) -> Manifest:
    """The new manifest, read and checked as training does."""
    reading: dict[str, Any] = {"multilabel": _is_multilabel(table, run), "val": 0.0, "test": 0.0}
    if run is not None:
        data = run.recipe.data
        reading |= {"val": data.val, "test": data.test, "seed": run.recipe.seed, "tasks": run.recipe.tasks}
        reading |= {"packed": data.packed is not None, "group_pattern": data.group_pattern}
    try:
        return Manifest.from_csv(partial, **reading)
    except DataError as error:
        message = str(error).replace(str(partial), str(target))
        hint = "; pass the run that reads it, --run RUN" if run is None and "no column label" in message else ""
        raise DataError(f"not written, as training would refuse it:\n{message}{hint}") from None


def _keep(file: Path) -> None:
    """Copy a file to `<name>.bak`, or `.bak2` and so on where that exists."""
    copies = (file.with_name(f"{file.name}.bak{number if number > 1 else ''}") for number in range(1, 10_000))
    free = next(copy for copy in copies if not copy.exists())
    free.write_bytes(file.read_bytes())
