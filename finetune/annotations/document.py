"""An annotation file as text, JSON or XML: encodings, compression, and what is refused for safety."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from finetune.data.tables import decode_text
from finetune.errors import DataError, shorten_list

MAX_BYTES = 500_000_000
MAX_XML_DEPTH = 50
_T = TypeVar("_T")


class Part(BaseModel):
    """A part of a JSON file. Unknown keys are ignored; numbers in strings are numbers; NaN is refused."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Document:
    """The bytes of a file, and what they hold. The properties raise DataError where they do not hold it."""

    source: Path
    data: bytes

    @cached_property
    def text(self) -> str:
        return decode_text(self.data, self.source).replace("\r\n", "\n").replace("\r", "\n")

    @property
    def is_xml(self) -> bool:
        start = self.data[:200].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")
        return start.startswith(b"<")

    @cached_property
    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            reason = "a number has thousands of digits" if "int_max_str_digits" in reason else reason
            raise DataError(f"{self.source}: is no complete JSON file: {reason}; export it again") from None

    @cached_property
    def xml(self) -> ElementTree.Element:
        parser = ElementTree.XMLParser(target=_SafeBuilder())
        try:
            parser.feed(self.data)
            root = parser.close()
        except _RefusedXml as error:
            raise DataError(f"{self.source}: {error}") from None
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise DataError(f"{self.source}: is no complete XML file: {error}; export it again") from None
        assert root is not None
        return root

    def json_as(self, kind: type[_T], tool: str) -> _T:
        """The JSON, checked by `check_json`."""
        return check_json(self.json, kind, self.source, tool)


def check_json(value: Any, kind: type[_T], source: Path, tool: str) -> _T:
    """The value, if it has the keys and types of a tool's files. Raises DataError naming those that differ."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except (ValidationError, RecursionError) as error:
        details = error.errors(include_url=False) if isinstance(error, ValidationError) else []
        problems = [f"{'.'.join(map(str, detail['loc']))[:100]}: {detail['msg']}" for detail in details]
        listed = shorten_list(problems)[:600] or "nested too deeply"
        raise DataError(f"{source}: differs from {tool} files: {listed}; export it again") from None


class _RefusedXml(Exception):
    pass


class _SafeBuilder(ElementTree.TreeBuilder):
    """Builds a tree; refuses document types, in which entities are declared, and deep nesting."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _RefusedXml("has a DOCTYPE, which no annotation tool writes; remove it")

    def start(self, tag: Any, attrs: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_XML_DEPTH:
            raise _RefusedXml(f"nests more than {MAX_XML_DEPTH} elements, which no annotation tool does")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def open_document(source: Path) -> Document:
    """Read a file; one that is compressed (.gz, or a .zip that holds one annotation file) is unpacked."""
    try:
        if source.stat().st_size > MAX_BYTES:
            raise DataError(f"{source}: is larger than {MAX_BYTES // 10**6} MB, which is no annotation file")
        data = source.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{source}: is a folder; name the annotation files in it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not data.strip():
        raise DataError(f"{source}: is empty")
    return Document(source, _unpack(source, data))


def _unpack(source: Path, data: bytes) -> bytes:
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as file:
                return _limited(source, file.read(MAX_BYTES + 1))
        if data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [name for name in archive.namelist() if name.endswith((".xml", ".json")) and "/" not in name]
                if len(names) != 1:
                    raise DataError(f"{source}: is an archive without one .xml or .json file; unpack it first")
                with archive.open(names[0]) as file:
                    return _limited(source, file.read(MAX_BYTES + 1))
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{source}: cannot be unpacked: {error}; download it again") from None
    return data


def _limited(source: Path, data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise DataError(f"{source}: unpacks to more than {MAX_BYTES // 10**6} MB, which is no annotation file")
    return data
