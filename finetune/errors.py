"""What the user can mend, said so that they can.

FinetuneError            exit status 2, its message on stderr, never a traceback
├── RecipeError          a recipe that cannot be run as it is written
├── DataError            a manifest, a folder or labels that do not fit
│   └── VideoError       one file that cannot be read as a video
├── ModelError           a backbone, stage or weights that are not there
├── RunError             a folder that is not a run, or a run that cannot do what is asked
└── DivergedError        a run whose loss is no longer a number
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class FinetuneError(Exception):
    """A mistake of the user's: what is wrong (with the value), where, and what to do next."""


class RecipeError(FinetuneError):
    """A recipe that cannot be run as it is written."""


class DataError(FinetuneError):
    """A manifest, a folder or labels that do not fit."""


class VideoError(DataError):
    """One file that cannot be read as a video; the message starts with its path."""


class ModelError(FinetuneError):
    """A backbone, stage or weights that are not there."""


class RunError(FinetuneError):
    """A folder that is not a run, or a run that cannot do what is asked."""


class DivergedError(FinetuneError):
    """A run whose loss is no longer a number."""


def suggest_similar(word: str, known: Iterable[str]) -> str:
    """`" (nearest: a, b)"` from the known words, or an empty string when none is near."""
    near = get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (nearest: {', '.join(near)})" if near else ""


def shorten_list(items: Sequence[object], *, limit: int = 5) -> str:
    """The first items in words, with the count of those left out."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
