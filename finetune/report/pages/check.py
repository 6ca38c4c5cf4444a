"""Write the page of `finetune check`: findings, tables, and contact sheets of each class.

Its sentences are in templates/check.html.j2; this file selects what the page shows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.errors import DataError
from finetune.report.html_page import load_template, page_assets, picture_uri, write_page
from finetune.text import count, with_unit
from finetune.video.class_colours import hex_colour

MAX_PICTURES, MAX_PER_CLASS = 600, 24
_MAX_DUPLICATES, _MAX_FILES = 30, 500
_HEADINGS = {"mend": "Must be fixed", "warning": "Warnings", "note": "Notes"}


def write_check_page(
    result: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    mean_pictures: Sequence[bytes] = (),
    *,
    path: Path,
) -> None:
    """Write the page of a result of `check_data`.

    `pictures` are JPEG bytes by file name; `mean_pictures` are those of `result["marks"]`, in the same order.
    """
    html = load_template("check.html.j2").render(
        result=result,
        summary=_summary(result),
        noun=result["noun"],
        blocks=[
            (severity, heading, [finding for finding in result["findings"] if finding["severity"] == severity])
            for severity, heading in _HEADINGS.items()
        ],
        sheets=_contact_sheets(result, pictures),
        objects=_object_rows(result.get("objects", [])),
        masks=[row | {"colour": _colour(row)} for row in result.get("masks", [])],
        copies=[
            duplicates | {"pictures": _duplicate_pictures(duplicates, pictures)}
            for duplicates in result["copies"][:_MAX_DUPLICATES]
        ],
        marks=[
            mark | {"picture": picture_uri(pictures[mark["example"]]), "mean_picture": picture_uri(mean)}
            for mark, mean in zip(result["marks"], mean_pictures, strict=True)
        ],
        spread=[
            row
            | {key: _format_value(row[key], row["fact"]) for key in ("least", "median", "most")}
            | ({"unit": ""} if row["fact"] == "bit rate" else {})  # its values have prefixed units
            for row in result["spread"]
        ],
        max_files=_MAX_FILES,
        **page_assets("check.css"),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, html)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _summary(result: Mapping[str, Any]) -> str:
    """The headline: the only error itself, or counts."""
    errors = [finding["what"] for finding in result["findings"] if finding["severity"] == "mend"]
    warnings = sum(finding["severity"] == "warning" for finding in result["findings"])
    files = result["size"]
    if len(errors) == 1:
        return str(errors[0])
    if errors:
        return f"{len(errors)} problems in {files} must be fixed before training."
    if warnings:
        return f"No errors in {files}, but {count(warnings, 'warning')}."
    return f"No problems found in {files}."


def _object_rows(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table of labelled objects, with the median size as text."""
    return [
        {
            **row,
            "size": "" if row["width"] is None else f"{row['width']:.0f} × {row['height']:.0f}",
            "colour": _colour(row),
        }
        for row in table
    ]


def _colour(row: Mapping[str, Any]) -> str:
    return hex_colour(row["number"])


def _contact_sheets(result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Middle frames of each class (unlabelled files are one), sampled evenly from its files."""
    by_class: dict[str, list[str]] = {}
    for row in result["files"]:
        if row["file"] in pictures:
            by_class.setdefault(row["label"], []).append(row["file"])
    max_pictures = min(MAX_PER_CLASS, max(1, MAX_PICTURES // max(1, len(by_class))))
    sheets = []
    for name, files in sorted(by_class.items()):
        number = min(max_pictures, len(files))
        chosen = [files[index * len(files) // number] for index in range(number)]
        shown = [(file, picture_uri(pictures[file])) for file in chosen]
        sheets.append({"class": name, "number": len(files), "shown": shown})
    return sheets


def _duplicate_pictures(copies: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[tuple[str, str, str, Markup]]:
    """(file, label, split, picture) of the first and the last of some duplicates."""
    parts = list(zip(copies["files"], copies["labels"], copies["splits"], strict=True))
    return [(*part, picture_uri(pictures[part[0]])) for part in (parts[0], parts[-1])]


def _format_value(value: float, fact: str) -> str:
    if fact == "size":
        return f"{value:,.0f}"
    if fact == "bit rate":
        return with_unit(value, "bit/s")
    return f"{value:.2f}" if fact == "shape" else f"{value:.3g}"
