"""Long lines on a terminal."""

import fcntl
import os
import pty
import struct
import termios

import pytest

from finetune.cli.terminal import SanitizedOutput
from finetune.cli.wrap import terminal_width, wrap

LINE = "finetune: nowhere: has no results; make it with `finetune evaluate nowhere --split val`"


@pytest.mark.parametrize("width", [20, 44, 50, 87])
def test_lines_are_broken_at_blanks_and_commands_stay_whole(width):
    lines = wrap(LINE, width).splitlines()
    assert " ".join(lines) == LINE
    assert all(len(line) <= width or line.startswith("`") for line in lines)
    assert any("`finetune evaluate nowhere --split val`" in line for line in lines)


def test_a_broken_line_keeps_its_indent_and_other_lines_stay_as_they_are():
    assert wrap("a\n    left 0.5   right 0.5\n", 20) == "a\n    left 0.5   right\n    0.5\n"
    assert wrap("    a_path_that_is_longer_than_the_terminal", 20) == "    a_path_that_is_longer_than_the_terminal"


def test_only_a_terminal_has_a_width(tmp_path):
    with (tmp_path / "log").open("w+") as file:
        assert terminal_width(file) is None
        SanitizedOutput(file, width=terminal_width(file)).write(LINE * 3)
        file.seek(0)
        assert file.read() == LINE * 3
    main, end = pty.openpty()
    with os.fdopen(end, "w") as terminal:
        assert terminal_width(terminal) is None  # it has not been given a size
        fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        assert terminal_width(terminal) == 40
    os.close(main)
