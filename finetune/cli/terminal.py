"""What commands print, made safe for a terminal in one place: names in it may be anybody's."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from finetune.text import escape_control_characters


class SanitizedOutput:
    """A stream to which `print` and the like write text without control characters.

    Rich draws tables and bars with them: it finds the stream itself by the name `rich_proxied_file`.
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
    """Standard output and error, for as long as the block lasts."""
    out: Any = SanitizedOutput(sys.stdout)
    err: Any = SanitizedOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        yield
