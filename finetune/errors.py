"""Errors that the user can fix.

FinetuneError            on the command line: exit status 2, the message on stderr, no traceback
├── ArgumentError        a call in Python has a wrong argument; it is a TypeError as well
├── RecipeError          the recipe is invalid
├── DataError            the manifest, folder or labels are invalid
│   └── VideoError       a file cannot be read as a video
├── ModelError           the backbone, stage or weights do not exist or do not fit
├── RunError             the folder is not a run, or the run cannot do what was requested
├── IndexFolderError     the folder is not an index, or the index cannot do what was requested
└── DivergedError        the loss of a run is not finite any more

A message says what is wrong (with the value), where, and what to do next. Bugs of this package are not FinetuneErrors.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class FinetuneError(Exception):
    """An error that the user can fix; the message says what is wrong, where, and what to do next."""


class ArgumentError(FinetuneError, TypeError):
    """A call has an argument with an unknown name or of a wrong type."""


class RecipeError(FinetuneError):
    """The recipe is invalid."""


class DataError(FinetuneError):
    """The manifest, folder or labels are invalid."""


class VideoError(DataError):
    """A file cannot be read as a video; the message starts with its path."""


class ModelError(FinetuneError):
    """The backbone, stage or weights do not exist or do not fit."""


class RunError(FinetuneError):
    """The folder is not a run, or the run cannot do what was requested."""


class IndexFolderError(FinetuneError):
    """The folder is not an index, or the index cannot do what was requested."""


class DivergedError(FinetuneError):
    """The loss of a run is not finite any more."""


def reason_of(error: Exception, *, limit: int = 300) -> str:
    """The text of another library's error in one line of at most `limit` characters; its type where it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def suggest_similar(word: str, known: Iterable[str]) -> str:
    """`" (nearest: a, b)"` from the known words, or an empty string if none is similar."""
    near = get_close_matches(str(word), list(known), n=3, cutoff=0.6)
    return f" (nearest: {', '.join(near)})" if near else ""


def shorten_list(items: Sequence[object], *, limit: int = 5) -> str:
    """The first `limit` items, separated by commas, and the number of the others."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
