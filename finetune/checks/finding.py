"""A finding of a check: what it is, how severe, and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["mend", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """`mend` is an error: training refuses the data, or test results would be misleading. `rows` are those affected."""

    severity: Severity
    kind: str  # an identifier for programs, such as `leak`
    what: str
    todo: str = ""
    rows: tuple[int, ...] = ()
