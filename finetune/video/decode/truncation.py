"""How many bytes a file's own header promises: fewer there mean that it was cut off, though it decodes up to there.

Of MP4 and MOV the index tells that frame by frame, in decode.py; AVI and Matroska (WebM) say it once, at their start.
"""

from pathlib import Path

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """Bytes that the header promises beyond those that are there; 0 where it promises nothing."""
    with path.open("rb") as file:
        start = file.read(256)
    promised = _riff(start) if start.startswith(b"RIFF") else _matroska(start) if start.startswith(_EBML) else None
    return max(0, (promised or 0) - path.stat().st_size)


def _riff(start: bytes) -> int | None:
    size = int.from_bytes(start[4:8], "little")
    return None if size in {0, 2**32 - 1} else size + 8  # written while it was recorded, and never filled in


def _matroska(start: bytes) -> int | None:
    """The end of the segment, which holds everything. Source: RFC 8794 (EBML), RFC 9559 (Matroska)."""
    header = _variable_int(start, 4)
    if header is None or start[header[1] + header[0] :][:4] != _SEGMENT:
        return None
    segment = _variable_int(start, header[1] + header[0] + 4)
    return None if segment is None else segment[1] + segment[0]


def _variable_int(data: bytes, at: int) -> tuple[int, int] | None:
    """(value, where it ends); None for one that is not known, which is written as all ones, or not there."""
    if at >= len(data) or not data[at]:
        return None
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") - (1 << 7 * length)
    return None if value == (1 << 7 * length) - 1 else (value, at + length)
