"""Load the manifest that a recipe names, and print what the user should know about it."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.recipe.schema import Recipe


def load_manifest(recipe: "Recipe", *, whole: bool = False) -> "Manifest":
    """The rows that a recipe's `data` names, with the labels of its tasks.

    `whole` puts every row into train, whatever its split.

    Raises RecipeError unless exactly one of data.manifest and data.folder is set.
    """
    from finetune.data.manifest import Manifest

    data = recipe.data
    if (data.manifest is None) == (data.folder is None):
        raise RecipeError(
            "a recipe needs one of data.manifest and data.folder: "
            "add data.folder=DIR (one subfolder per class) or data.manifest=FILE.csv (columns path,label)"
        )
    options: dict[str, Any] = {
        "val": data.val,
        "test": data.test,
        "seed": recipe.seed,
        "whole": whole,
        "tasks": recipe.tasks,
        "group_pattern": data.group_pattern,
        "checked": not recipe.evaluate.unknown,
    }
    if data.manifest is not None:
        manifest = Manifest.from_csv(
            data.manifest, multilabel=data.multilabel, packed=data.packed is not None, **options
        )
    elif data.multilabel:
        raise RecipeError("data.multilabel needs data.manifest: a file in a class folder has only that class")
    else:
        assert data.folder is not None
        manifest = Manifest.from_folder(data.folder, image_sequences=data.image_sequences, **options)
    manifest = _with_background(replace(manifest, image_rate=data.image_rate), recipe)
    manifest = _without_unknown_classes(manifest, recipe.evaluate.unknown)
    _print_size(manifest)
    _print_image_sequences(manifest)
    return print_manifest_notes(manifest)


def _with_background(manifest: "Manifest", recipe: "Recipe") -> "Manifest":
    data = recipe.data
    if data.background is None:
        return manifest
    from finetune.data.background import Background
    from finetune.video.background import with_background

    background = Background(data.background, data.background_share, data.background_margin, recipe.seed)
    return with_background(manifest, background, packed=data.packed)


def _without_unknown_classes(manifest: "Manifest", classes: Sequence[str]) -> "Manifest":
    """The manifest with the rows of these classes as its `unknown`; the other rows are checked as for training."""
    if not classes:
        return manifest  # already checked
    from finetune.data.unknown_classes import leave_out_classes
    from finetune.data.validate_rows import manifest_problems

    manifest = leave_out_classes(manifest, classes)
    if problems := manifest_problems(manifest):
        raise DataError("\n".join(f"{manifest.source}: {problem}" for problem in problems))
    return manifest


def _print_size(manifest: "Manifest") -> None:
    """The first line of a command, on stderr: how many clips it has."""
    from finetune.text import count

    if os.environ.get("RANK", "0") == "0":
        classes = f" of {count(len(manifest.classes), 'class', 'classes')}" if manifest.classes else ""
        sizes = ", ".join(f"{len(manifest.rows(split)):,} {split}" for split in ("train", "val", "test"))
        print(f"{manifest.source}: {count(len(manifest), 'clip')}{classes} ({sizes})", file=sys.stderr, flush=True)


def _print_image_sequences(manifest: "Manifest") -> None:
    """How many folders of numbered images are clips, on stderr."""
    from finetune.text import count

    sequences = sum(manifest.path(row).is_dir() for row in range(len(manifest)))
    if sequences:
        print(
            f"{count(sequences, 'folder')} of numbered images: one clip each, at {manifest.image_rate:g} frames per "
            "second (data.image_sequences, data.image_rate)",
            file=sys.stderr,
        )


def print_manifest_notes(manifest: "Manifest") -> "Manifest":
    """The manifest itself; the first of several processes prints its notes on stderr."""
    for note in manifest.notes if os.environ.get("RANK", "0") == "0" else ():
        print(f"note: {note}", file=sys.stderr)
    return manifest


def print_data_root_mapping(run: Path, data_root: Path | None) -> None:
    """With --data-root, print which recorded folder is read from which folder now."""
    if data_root is not None and os.environ.get("RANK", "0") == "0":
        from finetune.run.manifest import describe_relocation
        from finetune.run.read import open_run

        print(f"finetune: {describe_relocation(open_run(run), data_root)}", file=sys.stderr)
