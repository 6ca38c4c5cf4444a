"""Write the page of a check: what was found first, then tables, then pictures of each class.

The wording is in templates/check.html.j2; here is what is picked for it.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.errors import DataError
from finetune.report.run.page import load_template, page_assets, write_page
from finetune.text import count

MAX_PICTURES, MAX_PER_CLASS = 600, 24
_MAX_DUPLICATES, _MAX_FILES = 30, 500
_HEADINGS = {"mend": "Must be mended", "warning": "Warnings", "note": "Notes"}


def write_check_page(
    result: Mapping[str, Any], pictures: Mapping[str, bytes], mean_pictures: Sequence[bytes] = (), *, path: Path
) -> None:
    """Write the page of `result`, the dictionary that `audit` gives.

    `pictures` are JPEG files by file name, `mean_pictures` those of `result["marks"]`.
    """
    html = load_template("check.html.j2").render(
        result=result,
        answer=_answer(result),
        blocks=[
            (severity, heading, [each for each in result["findings"] if each["severity"] == severity])
            for severity, heading in _HEADINGS.items()
        ],
        sheets=_contact_sheets(result, pictures),
        copies=[
            each | {"pictures": _duplicate_pictures(each, pictures)} for each in result["copies"][:_MAX_DUPLICATES]
        ],
        marks=[
            mark | {"picture": _data_uri(pictures[mark["example"]]), "mean_picture": _data_uri(mean)}
            for mark, mean in zip(result["marks"], mean_pictures, strict=True)
        ],
        spread=[
            each | {key: _format_value(each[key], each["fact"]) for key in ("least", "median", "most")}
            for each in result["spread"]
        ],
        most_files=_MAX_FILES,
        **page_assets("check.css"),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, html)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _answer(result: Mapping[str, Any]) -> str:
    numbers = [sum(each["severity"] == severity for each in result["findings"]) for severity in ("mend", "warning")]
    grave, warnings = numbers
    files = count(result["num_files"], "file")
    if grave == 1:
        return str(next(each["what"] for each in result["findings"] if each["severity"] == "mend"))
    if grave:
        return f"{grave} things must be mended before anything is trained on {files}."
    if warnings:
        return f"Nothing must be mended in {files}; mind {count(warnings, 'warning')}."
    return f"Nothing is wrong with {files}."


def _contact_sheets(result: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """For each class, or for files without labels, some of its middle frames, evenly from first to last."""
    by_class: dict[str, list[dict[str, Any]]] = {}
    for each in result["files"]:
        if each["file"] in pictures:
            by_class.setdefault(each["label"], []).append(each)
    most = min(MAX_PER_CLASS, max(1, MAX_PICTURES // max(1, len(by_class))))
    sheets = []
    for name, files in sorted(by_class.items()):
        number = min(most, len(files))
        chosen = [files[index * len(files) // number] for index in range(number)]
        shown = [(each["file"], _data_uri(pictures[each["file"]])) for each in chosen]
        sheets.append({"class": name, "number": len(files), "shown": shown})
    return sheets


def _duplicate_pictures(copies: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[tuple[str, str, str, Markup]]:
    """(file, label, split, picture) of the first and last of some copies."""
    parts = list(zip(copies["files"], copies["labels"], copies["splits"], strict=True))
    return [(*part, _data_uri(pictures[part[0]])) for part in (parts[0], parts[-1])]


def _data_uri(jpeg: bytes) -> Markup:
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def _format_value(value: float, fact: str) -> str:
    if fact == "size":
        return f"{value / 1e6:.3g} million" if value >= 1e6 else f"{value:,.0f}"
    if fact == "bit rate":
        return f"{value / 1e6:.3g} million" if value >= 1e6 else f"{value / 1e3:.3g} thousand"
    return f"{value:.2f}" if fact == "shape" else f"{value:.3g}"
