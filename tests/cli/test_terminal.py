"""Bars and tables on a real terminal: their control characters arrive, those of names do not."""

import os
import pty
import subprocess
import sys

import pytest

BARS = """
from finetune.cli.progress import progress_bar
with progress_bar("checking") as show:
    show(1, 2)
"""
TABLE = """
from finetune.train.log.console import Display
record = {
    "epoch": 1, "learning": ["he\\x1b[31mad"], "lr": {"he\\x1b[31mad": 1.0}, "train_loss": 1.0, "train_top1": 0.5,
    "val_loss": 1.0, "val_top1": 0.5, "clips_per_second": 1.0, "seconds": {"data": 1.0},
}
with Display() as display:
    display.begin_epoch("epoch 1/1", 2, run=(0, 2))
    display.epoch(record)
    display.print_line("note \\x1b[31m")
    display.answer_signal("stopping after this step")
"""


@pytest.mark.parametrize(
    ("code", "shown"),
    [(BARS, ["checking"]), (TABLE, ["1*", "epoch 1/1", "finetune: stopping after"])],
    ids=["bars", "table"],
)
def test_a_terminal_gets_bars_and_no_escaped_control_characters(code, shown):
    main, terminal = pty.openpty()
    code = f"from finetune.cli.terminal import sanitized_output\nwith sanitized_output():\n{code}".replace(
        "\n", "\n    "
    )
    code = code.replace("    with sanitized_output", "with sanitized_output", 1)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    program = subprocess.Popen([sys.executable, "-c", code], stderr=terminal, stdout=terminal, env=environment)
    os.close(terminal)
    output = b""
    while True:
        try:
            output += (part := os.read(main, 65536))
        except OSError:  # the program has closed the terminal
            break
        if not part:
            break
    os.close(main)
    assert program.wait() == 0, output
    text = output.decode()
    assert all(words in text for words in shown) and "\x1b[2K" in text
    assert "\x1b[31m" not in text and "\\u001b[2K" not in text
