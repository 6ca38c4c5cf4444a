"""Make all output safe for a terminal: names in it may contain control characters."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from finetune.text import escape_control_characters


class SanitizedOutput:
    """A stream that escapes control characters in all text written to it.

    Rich needs control characters for tables and bars: it finds the real stream by the attribute `rich_proxied_file`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(escape_control_characters(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def sanitized_output() -> Iterator[None]:
    """Escape control characters in standard output and standard error inside the block."""
    out: Any = SanitizedOutput(sys.stdout)
    err: Any = SanitizedOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        yield
