"""Read the files of a multipart form from a request, straight to disk, within limits."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from finetune.storage.numbered_images import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MAX_NAME_LENGTH = 120
MAX_PARTS = 64  # fields and files of one form
MAX_FIELD_BYTES = 10_000
_UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]")


class UploadError(Exception):
    """A form that is not accepted: `status` is that of the answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Places(Protocol):
    """Where files are stored."""

    def new_folder(self) -> Path: ...
    def reserve(self, more_bytes: int) -> None: ...


@dataclass(eq=False)
class Upload:
    """One file: `name` is for display only, the path has nothing of it but a known ending."""

    name: str
    path: Path
    bytes: int = 0


@dataclass(eq=False)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: tuple[bytes, bytes] = b"", b""
    upload: Upload | None = None
    file: BinaryIO | None = None
    field_bytes: int = 0


class UploadReader:
    """Writes the files that a form has in the field `field_name` to disk as bytes arrive; ignores other fields.

    `places` gives each file a folder and is told of every byte. Files that were begun are in `uploads`, also after an
    UploadError, and are the caller's to remove.
    """

    def __init__(self, content_type: str, places: Places, *, field_name: str, max_files: int) -> None:
        self.places, self.field_name, self.max_files = places, field_name, max_files
        self.uploads: list[Upload] = []
        self.part = _Part()
        self.parts = 0
        self.is_complete = False
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise UploadError(415, f"send a form (multipart/form-data) with a file in the field {field_name!r}")
        try:
            self.parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, start, end: self._add_header(data[start:end], b""),
                    "on_header_value": lambda data, start, end: self._add_header(b"", data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_file,
                    "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
                    "on_part_end": self.close,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise UploadError(400, "the boundary of the form is not valid") from None

    def write(self, chunk: bytes) -> None:
        try:
            self.parser.write(chunk)
        except FormParserError:
            raise UploadError(400, "the form is not valid multipart/form-data") from None

    def finish(self) -> list[Upload]:
        """The files, once all bytes were written."""
        if not self.is_complete:
            raise UploadError(400, "the form is cut off")
        if not self.uploads:
            raise UploadError(400, f"the form has no file in the field {self.field_name!r}")
        return self.uploads

    def close(self) -> None:
        if self.part.file is not None:
            self.part.file.close()
            self.part.file = None

    def _begin_part(self) -> None:
        self.part, self.parts = _Part(), self.parts + 1
        if self.parts > MAX_PARTS:
            raise UploadError(413, f"the form has more than {MAX_PARTS} parts")

    def _add_header(self, name: bytes, value: bytes) -> None:
        self.part.header = self.part.header[0] + name, self.part.header[1] + value

    def _end_header(self) -> None:
        name, value = self.part.header
        self.part.headers[name.lower()], self.part.header = value, (b"", b"")

    def _begin_file(self) -> None:
        _, options = parse_options_header(self.part.headers.get(b"content-disposition", b""))
        if b"filename" not in options or options.get(b"name", b"") != self.field_name.encode():
            return
        if len(self.uploads) >= self.max_files:
            raise UploadError(413, f"at most {self.max_files} files are accepted at once")
        name = clean_name(options[b"filename"].decode("utf-8", "replace"))
        path = self.places.new_folder() / f"video{known_suffix(name)}"
        self.part.upload, self.part.file = Upload(name, path), path.open("xb")
        self.uploads.append(self.part.upload)

    def _add_data(self, data: bytes) -> None:
        if self.part.file is None or self.part.upload is None:
            self.part.field_bytes += len(data)
            if self.part.field_bytes > MAX_FIELD_BYTES:
                raise UploadError(413, f"a field of the form has more than {MAX_FIELD_BYTES:,} bytes")
            return
        self.places.reserve(len(data))
        self.part.upload.bytes += len(data)
        self.part.file.write(data)

    def _end(self) -> None:
        self.is_complete = True


def clean_name(name: str) -> str:
    """A name to show: without folders and characters that are invisible or turn the text around."""
    last = re.split(r"[/\\]", name)[-1]
    shown = _UNWANTED.sub("", last.encode("utf-8", "replace").decode()).strip()
    return shown[:MAX_NAME_LENGTH] if shown.strip(".") else "video"


def known_suffix(name: str) -> str:
    """The ending of a name, if it is one of videos or images."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES else ".bin"
