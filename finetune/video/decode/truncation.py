"""How many bytes a file should have by its own header: a smaller file was cut off, even if its start decodes.

AVI and Matroska (WebM) state their size at the start. MP4 and MOV list each frame in their index, see probe.py.
"""

from pathlib import Path

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """Bytes that the file lacks by its header; 0 where the header states no size."""
    with path.open("rb") as file:
        start = file.read(256)
    stated = _riff(start) if start.startswith(b"RIFF") else _matroska(start) if start.startswith(_EBML) else None
    return max(0, (stated or 0) - path.stat().st_size)


def _riff(start: bytes) -> int | None:
    size = int.from_bytes(start[4:8], "little")
    return None if size in {0, 2**32 - 1} else size + 8  # a recorder wrote a placeholder and never replaced it


def _matroska(start: bytes) -> int | None:
    """Where the segment, which contains everything, ends. Source: RFC 8794 (EBML), RFC 9559 (Matroska)."""
    header = _variable_int(start, 4)
    if header is None or start[header[1] + header[0] :][:4] != _SEGMENT:
        return None
    segment = _variable_int(start, header[1] + header[0] + 4)
    return None if segment is None else segment[1] + segment[0]


def _variable_int(data: bytes, at: int) -> tuple[int, int] | None:
    """(value, offset after it); None where the value is unknown (all ones) or missing."""
    if at >= len(data) or not data[at]:
        return None
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") - (1 << 7 * length)
    return None if value == (1 << 7 * length) - 1 else (value, at + length)
