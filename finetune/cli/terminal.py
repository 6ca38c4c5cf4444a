"""Make all output fit for a terminal: names in it may contain control characters, and messages are long."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from finetune.cli.wrap import terminal_width, wrap
from finetune.recipe.renamed_keys import RenamedKeyWarning
from finetune.text import escape_control_characters


class SanitizedOutput:
    """A stream that escapes control characters in all text written to it, and breaks lines longer than `width`.

    Rich needs control characters for tables and bars: it finds the real stream by the attribute `rich_proxied_file`.
    """

    def __init__(self, stream: TextIO, *, width: int | None = None) -> None:
        self.rich_proxied_file = stream
        self.width = width

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(wrap(escape_control_characters(text), self.width))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def renamed_keys_on_stderr() -> Iterator[None]:
    """For as long as the block lasts, a recipe key with an old name is one plain line on standard error."""
    shown: set[str] = set()
    show_other = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, RenamedKeyWarning):
            show_other(message, category, *place, **more)
        elif str(message) not in shown:
            shown.add(str(message))
            print(f"finetune: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RenamedKeyWarning)
        warnings.showwarning = show
        yield


@contextmanager
def sanitized_output() -> Iterator[None]:
    """Escape control characters in standard output and standard error inside the block, and break lines of the latter.

    Lines on standard output may be data, such as JSON and YAML; commands break its sentences with `print_wrapped`.
    """
    out: Any = SanitizedOutput(sys.stdout)
    err: Any = SanitizedOutput(sys.stderr, width=terminal_width(sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield
