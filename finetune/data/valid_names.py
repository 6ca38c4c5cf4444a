"""Which names files, classes and groups may have, the same in folders and tables, and which of them look alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from finetune.errors import shorten_list

# Control characters, line separators, and bytes that are not UTF-8: a run's CSV and JSON files cannot keep them.
FORBIDDEN_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
OTHER_SEPARATORS = "|,"
BLANK_END = "a blank at the beginning or the end"


def has_forbidden_characters(name: str) -> bool:
    """Whether a run's files cannot keep a name."""
    return FORBIDDEN_CHARACTERS.search(name) is not None


def name_problems(kind: str, names: Iterable[str]) -> list[str]:
    """What is wrong with the names of a `kind`, as files, classes or groups; see REFUSED."""
    every = sorted(set(names))
    odd = [name for name in every if has_forbidden_characters(name)]
    no_text = [name for name in odd if any("\ud800" <= character <= "\udfff" for character in name)]
    control = sorted(set(odd).difference(no_text))
    ends = [name for name in every if name.strip() not in ("", name)]  # a CSV cannot keep them
    problems = [] if all(map(str.strip, every)) else [f"names of {kind} that are blank; rename them"]
    for found, what in (
        (no_text, "bytes that are not UTF-8"),
        (control, "control characters or line breaks"),
        (ends, BLANK_END),
    ):
        if found:
            listed = shorten_list([f"“{escape_invisible(name)}”" for name in found])
            problems.append(f"names of {kind} with {what}: {listed}; rename them")
    return problems


def name_notes(kind: str, names: Iterable[str], *, separator: str | None = None) -> list[str]:
    """Names of a `kind` that a reader takes for one, and, where `separator` divides lists of them, other separators."""
    alike: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        alike.setdefault(_lookalike_key(name), []).append(name)
    same = [" and ".join(f"“{escape_invisible(name)}”" for name in each) for each in alike.values() if len(each) > 1]
    notes = (
        [f"{kind} that look alike: {shorten_list(same)}; if they are the same, spell them the same way"] if same else []
    )
    odd = sorted(name for each in alike.values() for name in each if set(OTHER_SEPARATORS) & set(name))
    if separator is not None and odd:
        listed = shorten_list([f"“{escape_invisible(name)}”" for name in odd])
        notes.append(f"{kind} read as one each: {listed}; separate several classes with “{separator}”")
    return notes


def _lookalike_key(name: str) -> str:
    """What is left of a name without what a reader overlooks: case, width, accents' form, blanks, a last full stop."""
    visible = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    plain = " ".join(re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", visible.casefold())).split()).rstrip(". ")
    plain = plain or name
    return str(float(plain)) if re.fullmatch(r"[+-]?\d{1,15}(\.\d*)?", plain) else plain


def escape_invisible(name: str) -> str:
    """The name with escapes in place of what cannot be seen or printed: bytes, control and zero-width characters."""
    is_composed = unicodedata.is_normalized("NFC", name)
    return "".join(map(_visible if is_composed else _visible_mark, name))


def replace_surrogates(name: str) -> str:
    """The name with a replacement character for each byte that is no UTF-8, for pages and JSON."""
    return re.sub("[\ud800-\udfff]", "\ufffd", name)


def _visible(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8, as Python keeps it in paths
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _visible_mark(character: str) -> str:
    return f"\\u{ord(character):04x}" if unicodedata.combining(character) else _visible(character)
