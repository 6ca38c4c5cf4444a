"""Another labelled set for a trained run: its rows, with their labels matched to the classes and tasks of the run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.checks.split_warnings import overlap_warnings
from finetune.data.labels import Labels, empty_labels
from finetune.data.manifest import Manifest
from finetune.data.splits import file_ids
from finetune.data.tables import read_table
from finetune.data.unknown_classes import divide_by_classes
from finetune.data.validate_rows import conflicting_labels
from finetune.errors import DataError, RunError, shorten_list
from finetune.recipe.load import data_section
from finetune.recipe.schema import Data, Recipe
from finetune.recipe.tasks import DEFAULT_TASK, OutputSpec
from finetune.run.folder import RESERVED_EVALUATIONS, EvaluationFolder, RunFolder
from finetune.run.read import Run
from finetune.storage.object_store import local_copy
from finetune.storage.safe_read import read_json

EXTERNAL_SET_KEYS = ("manifest", "folder", "group_pattern", "image_sequences", "image_rate", "packed")


@dataclass(frozen=True, eq=False)
class ExternalSet:
    """Another labelled set: its rows with the classes and tasks of a run, all of them in the split `split`."""

    manifest: Manifest
    data: Data
    split: str
    source: str  # the absolute path, or the URL, of the file or folder
    described: str
    warnings: list[dict[str, str]]  # {"what": a problem with the scores, "do": what to do about it}


def read_external_set(
    run: Run,
    trained: Manifest,
    overrides: Sequence[str],
    *,
    split: str | None = None,
    unknown_classes: Literal["fail", "skip", "score"] = "fail",
) -> ExternalSet:
    """The labelled set that `overrides` name, `data.manifest=FILE.csv` or `data.folder=DIR`, for a trained run.

    The rows are all rows of the set, or those of its own split `split`. Classes are matched by name. Rows with a class
    that the run does not know are refused (`fail`), omitted (`skip`), or become the manifest's `unknown` (`score`).
    `trained` are the run's own rows, to warn about clips that are in both. Raises DataError.
    """
    data = _data_settings(run.recipe, overrides)
    manifest, missing_tasks = _read_labelled_set(data, run)
    if problems := conflicting_labels(manifest, file_ids([manifest.path(row) for row in range(len(manifest))])):
        raise DataError("\n".join(f"{manifest.source}: {problem}" for problem in problems))
    if split is not None:
        if not len(manifest.rows(split)) or set(manifest.splits) == {"train"}:
            raise DataError(f"{manifest.source}: has no rows in the split {split!r}; omit --split for all rows")
        manifest = manifest.for_split(split)
    manifest = replace(manifest, splits=np.full(len(manifest), split or "test"))
    manifest, skipped = _match_classes(manifest, run.outputs, unknown_classes=unknown_classes)
    warnings = [
        *overlap_warnings(trained, manifest),
        *_skipped_warnings(skipped),
        *_missing_class_warnings(manifest, several=bool(run.recipe.tasks)),
        *({"what": f"It has no labels of {shorten_list(missing_tasks)}.", "do": ""} for _ in missing_tasks[:1]),
    ]
    which = f"{len(manifest)} rows of its split {split}" if split else f"all {len(manifest)} rows"
    described = f"{manifest.source.absolute()}, {which}"
    return ExternalSet(manifest, data, split or "test", _source(data), described, warnings)


def _source(data: Data) -> str:
    place = data.manifest if data.manifest is not None else data.folder
    return place if isinstance(place, str) else str(Path(place or "").absolute())


def _data_settings(recipe: Recipe, overrides: Sequence[str]) -> Data:
    """The run's own data settings, changed by those of `overrides` that an evaluation takes."""
    given = data_section(overrides)
    refused = sorted(given.model_fields_set - set(EXTERNAL_SET_KEYS))
    if refused:
        raise DataError(f"data.{refused[0]}: an evaluation takes only data.{', data.'.join(EXTERNAL_SET_KEYS)}")
    if (given.manifest is None) == (given.folder is None):
        raise DataError("name one set to evaluate on: data.manifest=FILE.csv or data.folder=DIR")
    own = {"manifest": None, "folder": None, "packed": None}
    return recipe.data.model_copy(update=own | {key: getattr(given, key) for key in given.model_fields_set})


def _read_labelled_set(data: Data, run: Run) -> tuple[Manifest, list[str]]:
    """The rows with their labels, and the names of the run's tasks that have no column there."""
    tasks = run.recipe.tasks
    source = data.manifest if data.manifest is not None else data.folder
    assert source is not None
    where = local_copy(source) if isinstance(source, str) else source
    if data.folder is not None and data.multilabel:
        raise DataError(f"{where}: this run's clips have several classes; give a CSV, data.manifest=FILE.csv")
    columns = {"label"} if data.folder is not None else set(read_table(where))
    labelled_tasks = {
        name: task.model_copy(
            update={"manifest": None, "levels": run.outputs[name].names if task.kind == "ordinal" else task.levels}
        )
        for name, task in tasks.items()
        if set(task.columns_of(name)) <= columns
    }
    if tasks and not labelled_tasks:
        needed = ", ".join(column for name, task in tasks.items() for column in task.columns_of(name))
        raise DataError(f"{where}: has no labels of the run's tasks; their columns are {needed}")
    settings: dict[str, Any] = {"group_pattern": data.group_pattern, "val": 0, "test": 0, "checked": False}
    settings["tasks"] = labelled_tasks
    if data.folder is not None:
        manifest = Manifest.from_folder(where, image_sequences=data.image_sequences, **settings)
    else:
        packed = data.packed is not None
        manifest = Manifest.from_csv(where, multilabel=data.multilabel, packed=packed, **settings)
    return replace(manifest, image_rate=data.image_rate), [name for name in tasks if name not in labelled_tasks]


def _match_classes(
    manifest: Manifest, outputs: Mapping[str, OutputSpec], *, unknown_classes: str
) -> tuple[Manifest, dict[str, int]]:
    """The rows with the run's classes, and the number of omitted rows of each class that the run does not know."""
    if unknown_classes == "score" and [output.kind for output in outputs.values()] != ["classify"]:
        raise DataError(f"{manifest.source}: --unknown-classes score is for runs with one class per clip; use skip")
    unknown: dict[str, int] = {}
    matched: dict[str, Labels] = {}
    names = {name: output.names for name, output in outputs.items()}
    for task, labels in manifest.labels_by_task.items():
        counts = labels.counts(np.arange(len(manifest)))
        by_class = zip(labels.names, counts, strict=False)
        unknown |= {name: count for name, count in by_class if count and name not in names[task]}
        matched[task] = labels.among(names[task])
    if unknown and unknown_classes == "fail":
        known = shorten_list([name for of_task in names.values() for name in of_task], limit=20)
        listed = shorten_list([f"{name} ({count} rows)" for name, count in unknown.items()])
        raise DataError(
            f"{manifest.source}: has classes that the run does not know: {listed}; it knows {known}. "
            "Correct the labels, skip these rows with --unknown-classes skip, or use them with --unknown-classes score"
        )
    if manifest.tasks:
        tasks = {name: matched.get(name) or empty_labels(output, len(manifest)) for name, output in outputs.items()}
        return replace(manifest, tasks=tasks).aligned_to_outputs(outputs), unknown
    manifest = divide_by_classes(manifest, names[DEFAULT_TASK])
    if not len(manifest):
        raise DataError(f"{manifest.source}: no row has a class that the run knows")
    return (manifest, {}) if unknown_classes == "score" else (replace(manifest, unknown=None), unknown)


def _skipped_warnings(unknown: Mapping[str, int]) -> list[dict[str, str]]:
    if not unknown:
        return []
    listed = shorten_list([f"{name} ({count} rows)" for name, count in unknown.items()])
    return [{"what": f"Skipped: rows of classes that the model does not know, {listed}.", "do": "Train with them."}]


def _missing_class_warnings(manifest: Manifest, *, several: bool) -> list[dict[str, str]]:
    warnings = []
    for task, labels in manifest.labels_by_task.items():
        present: list[bool] = np.any(labels.presence(), axis=0).tolist()
        missing = [name for name, is_present in zip(labels.names, present, strict=False) if not is_present]
        if missing and labels.known.any():
            what = f"This set has no clip of {shorten_list(missing)}{f' (tasks.{task})' if several else ''}."
            warnings.append({"what": what, "do": "How well the model recognizes these classes is not measured."})
    return warnings


def external_set_folder(run: Path, overrides: Sequence[str]) -> Path:
    """The folder for an evaluation on another set: the set's name, with a number where another set has that name."""
    source = _source(data_section(overrides))
    name = re.sub(r"[^\w.-]+", "-", Path(source).stem).strip("-.") or "data"
    name = f"data-{name}" if name in RESERVED_EVALUATIONS else name
    number = 1
    while True:
        folder = RunFolder(run).external_evaluation(name if number == 1 else f"{name}-{number}")
        if not folder.path.exists() or _recorded_source(folder) == source:
            return folder.path
        number += 1


def _recorded_source(folder: EvaluationFolder) -> str | None:
    try:
        return str(read_json(folder.results, dict[str, Any])["source"])
    except (RunError, KeyError):
        return None
