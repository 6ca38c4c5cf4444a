"""Check names of files, classes and groups: forbidden characters, and names that look alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from finetune.errors import shorten_list

# Control characters, line separators, and bytes that are not UTF-8: a run's CSV and JSON files cannot keep them.
FORBIDDEN_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
OTHER_SEPARATORS = "|,"
BLANK_END = "leading or trailing whitespace"


def has_forbidden_characters(name: str) -> bool:
    """Whether a name has characters that a run's CSV and JSON files cannot store."""
    return FORBIDDEN_CHARACTERS.search(name) is not None


def name_problems(kind: str, names: Iterable[str]) -> list[str]:
    """Error messages for invalid names; `kind` is files, classes or groups, for the messages."""
    unique = sorted(set(names))
    forbidden = [name for name in unique if has_forbidden_characters(name)]
    not_utf8 = [name for name in forbidden if any("\ud800" <= character <= "\udfff" for character in name)]
    control = sorted(set(forbidden).difference(not_utf8))
    unstripped = [name for name in unique if name.strip() not in ("", name)]  # reading a CSV strips them
    problems = [] if all(map(str.strip, unique)) else [f"names of {kind} that are blank; rename them"]
    for invalid, reason in (
        (not_utf8, "bytes that are not UTF-8"),
        (control, "control characters or line breaks"),
        (unstripped, BLANK_END),
    ):
        if invalid:
            listed = shorten_list([f"“{escape_invisible(name)}”" for name in invalid])
            problems.append(f"names of {kind} with {reason}: {listed}; rename them")
    return problems


def name_notes(kind: str, names: Iterable[str], *, separator: str | None = None) -> list[str]:
    """Warnings about names that look alike, and, with a `separator` of lists, about names with another separator."""
    by_key: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        by_key.setdefault(_lookalike_key(name), []).append(name)
    alike = [
        " and ".join(f"“{escape_invisible(name)}”" for name in similar)
        for similar in by_key.values()
        if len(similar) > 1
    ]
    notes = []
    if alike:
        notes.append(f"{kind} that look alike: {shorten_list(alike)}; if they are the same, spell them the same way")
    unsplit = sorted(name for similar in by_key.values() for name in similar if set(OTHER_SEPARATORS) & set(name))
    if separator is not None and unsplit:
        listed = shorten_list([f"“{escape_invisible(name)}”" for name in unsplit])
        notes.append(f"{kind} that contain “|” or “,”: {listed}; separate several classes with “{separator}”")
    return notes


def _lookalike_key(name: str) -> str:
    """The same text for names that look alike: case, width, Unicode form, spaces and a final full stop are ignored."""
    normalized = unicodedata.normalize("NFKC", name)
    visible = "".join(character for character in normalized if unicodedata.category(character) != "Cf")
    plain = " ".join(re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", visible.casefold())).split()).rstrip(". ")
    plain = plain or name
    return str(float(plain)) if re.fullmatch(r"[+-]?\d{1,15}(\.\d*)?", plain) else plain


def escape_invisible(name: str) -> str:
    """The name with bytes that are not UTF-8, control characters and zero-width characters written as escapes."""
    is_composed = unicodedata.is_normalized("NFC", name)
    return "".join(map(_visible if is_composed else _visible_mark, name))


def replace_surrogates(name: str) -> str:
    """The name with a replacement character for each byte that is not UTF-8, for pages and JSON."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


def _visible(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8 (surrogateescape)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _visible_mark(character: str) -> str:
    return f"\\u{ord(character):04x}" if unicodedata.combining(character) else _visible(character)
