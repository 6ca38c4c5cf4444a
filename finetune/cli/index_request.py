"""What `finetune index` is asked for: the rows, the model and the windows, checked before anything slow is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cli.arguments import DATA_RECIPE, check_positive_seconds, recipe_source
from finetune.errors import DataError, FinetuneError, IndexFolderError, RecipeError, RunError, shorten_list
from finetune.recipe.load import load_recipe
from finetune.recipe.own_parts import import_named_parts
from finetune.retrieval.build_plan import (
    BuildPlan,
    WindowLengths,
    is_index,
    is_unfinished,
    plan_build,
    windows_of_source,
)
from finetune.retrieval.frozen_settings import check_frozen_settings, recipe_of_source
from finetune.retrieval.indexed_rows import IndexedRows, read_indexed_rows
from finetune.retrieval.tower_names import is_tower_name
from finetune.text import count
from finetune.vector_index.index import VectorIndex

if TYPE_CHECKING:
    from finetune.recipe.schema import Recipe
    from finetune.run.read import Run

WITH_A_RUN = ("data.", "train.", "seed")  # settings that may be given with --run


@dataclass(frozen=True)
class IndexOptions:
    """The arguments of the command; see its help."""

    source: str
    overrides: Sequence[str]
    out: Path
    run: Path | None
    window: float | None
    step: float | None
    add: bool
    parts: Sequence[str]


@dataclass(frozen=True, eq=False)
class IndexRequest:
    """The rows, and what is to be done with them.

    The model is that of `run`, of `recipe`, or, with neither, of the `existing` index. `windows` are those of
    recordings; None embeds whole rows.
    """

    out: Path
    rows: IndexedRows
    plan: BuildPlan
    windows: WindowLengths | None
    existing: VectorIndex | None
    run: Run | None
    recipe: Recipe | None


def read_request(options: IndexOptions) -> IndexRequest:
    """Raises a FinetuneError with all mistakes."""
    problems: list[str] = []
    existing, opened, recipe, rows, windows = None, None, None, None, None
    with _noted(problems):
        existing = _existing_index(options)
    with _noted(problems):
        check_positive_seconds({"--window": options.window, "--step": options.step})
    with _noted(problems):
        opened = _open_run(options, existing)
    with _noted(problems):
        recipe, location = _read_recipe(options)
        rows = _read_rows(location, recipe, opened)
    _raise_all(problems)
    assert recipe is not None and rows is not None
    if opened is not None or (existing is not None and not _names_model(options)):
        recipe = None
    if recipe is not None and existing is not None and not _names_model(options, ("model.",)):
        recipe = recipe.model_copy(update={"model": recipe_of_source(existing.source, recipe).model})
    with _noted(problems):
        _check_model(options.out, existing, opened, recipe)
    with _noted(problems):
        windows = _windows(options, existing, opened, rows)
    _raise_all(problems)
    plan = plan_build(rows, existing, in_windows=windows is not None)
    return IndexRequest(options.out, rows, plan, windows, existing, opened, recipe)


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Append the message of a FinetuneError to the problems."""
    try:
        yield
    except FinetuneError as error:
        problems.append(str(error))


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))


def _existing_index(options: IndexOptions) -> VectorIndex | None:
    """The index in the folder, to which is added, or whose build goes on; None for a new one."""
    out = options.out
    if not is_index(out):
        if options.add:
            raise IndexFolderError(f"{out}: there is no index to add to; leave out --add to make one")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise IndexFolderError(f"{out}: is not an index, and not an empty folder; give a new folder as --out")
        return None
    index = VectorIndex.open(out)
    if is_unfinished(out):
        print(f"{out}: continuing, {count(len(index), 'vector')} are there", file=sys.stderr)
    elif not options.add:
        raise IndexFolderError(
            f"{out}: is an index of {count(len(index), 'vector')} already; --add adds new and changed files to it, or "
            "give a new folder as --out"
        )
    return index


def _open_run(options: IndexOptions, existing: VectorIndex | None) -> Run | None:
    """The run of --run, or that of the index where no model is named. Raises RunError for the run's own settings."""
    folder = options.run
    if existing is not None and existing.source.kind == "run" and not _names_model(options, ("model.",)):
        folder = folder or Path(existing.source.name)
    if folder is None:
        return None
    from finetune.run.read import open_run, require_clip_task

    if own := [text for text in options.overrides if not text.startswith(WITH_A_RUN)]:
        raise RunError(f"{shorten_list(own)}: the model and its clips are those of the run {folder}; leave these out")
    try:
        run = open_run(open_run(folder), options.overrides, parts=import_named_parts(options.parts))
    except RunError as error:
        if options.run is not None:
            raise
        raise IndexFolderError(f"{options.out}: was made with a run that cannot be opened: {error}") from None
    require_clip_task(run, "an index")
    return run


def _read_recipe(options: IndexOptions) -> tuple[Recipe, str | Path]:
    """The recipe that says how rows are read and embedded, and where the rows are."""
    given = recipe_source(options.source, options.overrides)
    if given.recipe != DATA_RECIPE or options.source == DATA_RECIPE:
        recipe = load_recipe(given.recipe, given.overrides)
        location = recipe.data.manifest or recipe.data.folder
        if location is None:
            raise RecipeError(
                f"{options.source}: the recipe names no videos; add data.folder=DIR or data.manifest=FILE"
            )
        return recipe, location
    recipe = load_recipe(DATA_RECIPE, ["model.temporal=mean", *options.overrides])
    return recipe, options.source


def _read_rows(location: str | Path, recipe: Recipe, run: Run | None) -> IndexedRows:
    data = recipe if run is None else run.recipe
    rows = read_indexed_rows(location, data)
    noun = "clip" if rows.labels or rows.manifest.intervals is not None else "video"
    tasks = [f"{len(labels.names)} classes" for labels in rows.labels.values()]
    print(
        f"{location}: {count(len(rows), noun)}{' of ' if tasks else ''}{', '.join(tasks)}", file=sys.stderr, flush=True
    )
    return rows


def _names_model(options: IndexOptions, sections: tuple[str, ...] = ("model.", "clip.")) -> bool:
    """Whether the model of a frozen backbone or its clips are set, which an existing index must then have."""
    is_recipe = recipe_source(options.source).recipe != DATA_RECIPE or options.source == DATA_RECIPE
    return is_recipe or any(text.startswith(sections) for text in options.overrides)


def _check_model(out: Path, existing: VectorIndex | None, run: Run | None, recipe: Recipe | None) -> None:
    """Raise an error for settings that cannot embed, and where the index was made by another model."""
    if run is not None:
        wanted = ("run", str(run.folder.resolve()))
    elif recipe is not None:
        wanted = ("text" if is_tower_name(recipe.model.backbone) else "backbone", str(recipe.model.backbone))
        _check_backbone(recipe)
    else:
        return
    if existing is not None and (existing.source.kind, existing.source.name) != wanted:
        raise IndexFolderError(
            f"{out}: was made with the {existing.source.kind} {existing.source.name}, not with the {wanted[0]} "
            f"{wanted[1]}; leave the model out to use that of the index, or give a new folder as --out"
        )


def _check_backbone(recipe: Recipe) -> None:
    from finetune.model.backbone.known_names import check_name

    check_frozen_settings(recipe)
    if not is_tower_name(recipe.model.backbone):
        check_name(recipe.model.backbone)


def _windows(
    options: IndexOptions, existing: VectorIndex | None, run: Run | None, rows: IndexedRows
) -> WindowLengths | None:
    """The windows of recordings: those that are asked for, else those of the index or of the run."""
    windows = None if options.window is None else WindowLengths(options.window, options.step)
    if existing is not None:
        windows = _same_windows(options, existing, windows)
    elif windows is None and run is not None and not rows.labels and rows.manifest.intervals is None:
        windows = _windows_of_run(run, options.step)
    if windows is None and options.step is not None:
        raise RunError("--step is for windows of recordings; give their length too, --window SECONDS")
    if windows is not None and rows.manifest.intervals is not None:
        raise DataError(f"{rows.manifest.source}: its rows are parts of recordings already; leave out --window")
    return windows


def _same_windows(options: IndexOptions, existing: VectorIndex, windows: WindowLengths | None) -> WindowLengths | None:
    kept = windows_of_source(existing.source)
    if windows not in (None, kept):
        has = "whole rows" if kept is None else f"windows of {kept.seconds:g} s"
        raise IndexFolderError(
            f"{options.out}: has {has}; leave out --window and --step, or give a new folder as --out"
        )
    return kept


def _windows_of_run(run: Run, step: float | None) -> WindowLengths | None:
    """Windows as long as the clips of a run that was trained on parts of recordings; None for another run."""
    from finetune.run.manifest import saved_manifest

    if saved_manifest(run, needs_files=False).intervals is None:
        return None
    from finetune.cli.timeline import print_window_length

    return WindowLengths(print_window_length(run), step)
