"""Read files of a run folder, which may come from somebody else: nothing is executed, invalid files are a RunError."""

import csv
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import TypeAdapter, ValidationError

from finetune.errors import RunError, shorten_list

MAX_TEXT_BYTES = 2_000_000_000
TRACKER_FOLDERS = ("wandb", "mlruns")  # experiment trackers create links of their own
MALFORMED_DATA_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError)

BAD_ARRAY_ERRORS = (  # what NumPy raises for files that are not arrays
    *(*MALFORMED_DATA_ERRORS, OSError, EOFError, SyntaxError, MemoryError, NotImplementedError),
    *(TokenError, BadZipFile, zlib.error, struct.error),
)


def read_text_file(path: Path) -> str | None:
    """The text of a file, or None if it does not exist; bytes that are not UTF-8 become replacement characters."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_TEXT_BYTES:
            raise RunError(f"{path}: is not a text file; remove it, and evaluate or train again")
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None


def read_json(path: Path, kind: Any = Any) -> Any:
    """The value in a JSON file, checked against a type such as dict[str, int] or a TypedDict. Raises RunError."""
    text = read_text_file(path)
    if text is None:
        raise RunError(f"{path}: there is no such file; evaluate or train again")
    return parse_json(text, path, kind)


def parse_json(text: str, where: Path | str, kind: Any = Any) -> Any:
    """The value of a JSON text, checked as in `read_json`. Raises RunError, whose message names `where`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where}: not JSON ({error}); it is damaged: evaluate or train again") from None
    return validate_type(value, kind, where)


def validate_type(value: Any, kind: Any, where: Path | str) -> Any:
    """The value, unchanged, if it is of the type `kind`. Raises RunError naming the keys that do not fit."""
    try:
        _adapter(kind).validate_python(value, strict=True)
        return value
    except (ValidationError, RecursionError) as error:
        details = error.errors() if isinstance(error, ValidationError) else []
        problems = [f"{'.'.join(map(str, detail['loc'])) or 'top level'}: {detail['msg']}" for detail in details]
        listed = shorten_list(problems)[:500] or "nested too deeply"
        raise RunError(f"{where}: unexpected content ({listed}); it is damaged: evaluate or train again") from None


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def read_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """The array in a .npy file, of any shape, or its memory map; pickled objects are refused. Raises RunError."""
    try:
        if mapped:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except BAD_ARRAY_ERRORS as error:
        raise RunError(f"{path}: cannot be read as an array: {error!r:.200}; make it again") from None


@contextmanager
def damage_as_run_error(folder: Path) -> Iterator[None]:
    """Turn errors in this block into a RunError about `folder`; for work that fails only if its files are damaged."""
    from jinja2.exceptions import UndefinedError

    try:
        yield
    except (*MALFORMED_DATA_ERRORS, UndefinedError, csv.Error) as error:
        raise RunError(f"{folder}: a file in it is damaged: {error!r:.300}; evaluate the run again") from error


def check_no_external_links(run: Path, *, only_read: str | None = None) -> None:
    """Raise RunError for a link that leads out of a run folder: writing to it would change a file outside.

    A folder named `only_read` is not checked.
    """
    root = run.resolve()
    for folder, names, files in os.walk(root):
        parent = Path(folder)
        names[:] = [name for name in names if name != only_read and (parent != root or name not in TRACKER_FOLDERS)]
        for path in (parent / name for name in (*names, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise RunError(f"{path}: is a link that leads out of the run folder; put the file itself there")
