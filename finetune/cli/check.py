"""`finetune check`: find all problems of a labelled data set before training."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.arguments import Overrides, RecipeName, RecipeSource, recipe_source
from finetune.cli.progress import progress_bar
from finetune.errors import DataError, RecipeError
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe

FILES_SHOWN = 10
_SEVERITY_LABELS = {"mend": ("error", "bold red"), "warning": ("warning", "yellow"), "note": ("note", "dim")}


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fix: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a CSV without the faulty rows.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML page to write, or a folder for check.html.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Skip a file when reading makes no progress for this long.")
    ] = 8.0,
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Decode every frame to locate damage; slow.")
    ] = False,
) -> None:
    """Find unreadable files, duplicates, leaks and shortcuts; writes an HTML page.

    Errors give exit status 1: unreadable files, duplicates or groups in more
    than one split, classes without training clips. Warnings and notes give 0.

    Example: finetune check DIR --fix good.csv
    """
    settings = _settings_of(recipe_source(recipe, overrides))
    data, seed = settings.data, settings.seed
    from finetune.checks.burnt_in_marks import find_marks, rows_to_compare
    from finetune.checks.check_data import audit, write_fixed
    from finetune.checks.labelled_pictures import LabelledPictures
    from finetune.checks.rows import read_rows, tasks_of_objects
    from finetune.report.pages.check import write_check_page
    from finetune.storage.object_store import local_copy
    from finetune.video.probe_files import ClipOfFile, inspect_files

    place = data.manifest or data.folder
    assert place is not None
    where = local_copy(place) if isinstance(place, str) else place
    shares = data.val, data.test, seed
    rows = read_rows(
        where,
        group_pattern=data.group_pattern,
        shares=shares,
        multilabel=data.multilabel,
        tasks=settings.tasks or tasks_of_objects(where),
        image_sequences=data.image_sequences,
    )
    with progress_bar("checking files") as progress:
        compared = set(rows_to_compare(rows))
        clips = [
            ClipOfFile(path, rows.interval(row), row in compared, rows.boxes_cell(row))
            for row, path in enumerate(rows.paths)
        ]
        looks = inspect_files(
            clips, seconds=seconds, image_rate=data.image_rate, every_frame=every_frame, progress=progress
        )
    marks = find_marks(rows, looks)
    with progress_bar("comparing likely copies") as progress:
        result, left = audit(rows, looks, marks, reading=(data.image_rate, seconds), progress=progress)
    page = _page_path(out, where)
    pictures = LabelledPictures(rows, [file["file"] for file in result["files"]], looks)
    write_check_page(result, pictures, [mark.mean_jpeg for mark in marks], path=page)
    if fix is not None:
        write_fixed(fix, rows, left)
    if as_json:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        _print(result)
        print(f"page  {page}")
        if fix is not None:
            print(f"fixed {fix}: {len(left)} of {len(rows)} rows kept")
    if any(finding["severity"] == "mend" for finding in result["findings"]):
        raise typer.Exit(1)


def _settings_of(source: RecipeSource) -> Recipe:
    """The settings of a recipe that names its data."""
    settings = load_recipe(source.recipe, source.overrides)
    if (settings.data.manifest is None) == (settings.data.folder is None):
        raise RecipeError(f"{source.recipe}: set one of data.manifest=FILE.csv and data.folder=DIR")
    if settings.data.folder is not None and not settings.data.folder.is_dir():
        raise DataError(f"there is no folder {str(settings.data.folder)!r}")
    return settings


def _page_path(out: Path | None, source: Path) -> Path:
    if out is None:
        return Path(f"check-{source.resolve().stem}.html")
    return out if out.suffix in {".html", ".htm"} else out / "check.html"


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    console.print(Text(f"{result['source']}: {result['size']}, {len(result['unreadable'])} cannot be read\n"))
    for finding in result["findings"]:
        label, style = _SEVERITY_LABELS[finding["severity"]]
        console.print(Text.assemble((f"{label:8}", style), finding["what"], (f" {finding['todo']}".rstrip(), "dim")))
        for line in _lines(finding, result):
            console.print(Text(f"          {line}"))
    if not result["findings"]:
        console.print("No problems found.")
    console.print()


def _lines(finding: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """One line for each file of a finding, or for each set of duplicates; at most FILES_SHOWN of them."""
    if finding["kind"] == "unreadable":
        return [f"{file['file']}: {file['reason']}" for file in result["unreadable"]]
    lines = finding["files"]
    if finding["kind"] in {"exact_copies", "near_copies", "same_scene"}:
        kind = finding["kind"] == "exact_copies", finding["kind"] == "same_scene", finding["severity"] != "note"
        duplicates = [entry for entry in result["copies"] if (entry["exact"], entry["still"], entry["across"]) == kind]
        lines = [
            " = ".join(map(_with_split, entry["files"], entry["splits"])) + _in_parentheses(entry["changes"])
            for entry in duplicates
        ]
    shown = lines[:FILES_SHOWN]
    return shown if len(lines) <= FILES_SHOWN else [*shown, f"and {len(lines) - FILES_SHOWN} more"]


def _in_parentheses(changes: list[str]) -> str:
    return f" ({', '.join(changes)})" if changes else ""


def _with_split(file: str, split: str) -> str:
    return f"{file} ({split})" if split else file
