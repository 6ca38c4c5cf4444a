"""One thing that a check found: what it is, how grave, and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["mend", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """`mend`: training refuses it, or its test could not be believed. `rows` are all that it concerns."""

    severity: Severity
    kind: str  # a word for programs, as `leak`
    what: str
    todo: str = ""
    rows: tuple[int, ...] = ()
