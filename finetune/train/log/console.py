"""Progress of training: bars and a table on a terminal, plain lines elsewhere; all on stderr."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from finetune.text import duration, escape_control_characters
from finetune.train.log.epoch_table import epoch_line, epoch_table

ROWS_SHOWN = 14
SECONDS_BETWEEN_LINES = 60
SECONDS_OF_SPEED = 900  # over which the speed is averaged that the remaining time is computed with


class Display:
    """A context manager for a run; call `step` after each batch and `epoch` after each epoch."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        # The stream itself: what the command line puts around it escapes the control characters of bars and tables.
        self.console.file = self.console.file
        self.records: list[Mapping[str, Any]] = []
        self.last_line_at = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=SECONDS_OF_SPEED,
        )
        self.run_task = self.bar.add_task("run", total=1, note="steps", visible=False)
        self.task = self.bar.add_task("preparing", total=None, note="")
        self.rows, self.notice = ROWS_SHOWN, ""
        self.live = Live(get_renderable=self._picture, console=self.console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            for task in self.bar.task_ids:
                self.bar.update(task, visible=False)
            self.rows = len(self.records)
            self.live.stop()

    def print_line(self, text: str) -> None:
        self.last_line_at = time.monotonic()
        self.console.print(
            escape_control_characters(text), highlight=False, markup=False, soft_wrap=not self.console.is_terminal
        )

    def answer_signal(self, text: str) -> None:
        """Show the answer to a signal, from inside its handler: the picture has it when it is drawn next.

        Elsewhere it is written without `print`: the signal may arrive during another print.
        """
        if self.live.is_started:
            self.notice = text
        else:
            os.write(2, f"\nfinetune: {text}\n".encode())

    def resume(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Show the epochs that a resumed run has finished already."""
        self.records = list(records)
        if records and not self.console.is_terminal:
            self.print_line(f"resumed; the last finished epoch: {epoch_line(self.records)}")

    def begin_epoch(self, title: str, steps: int, *, run: tuple[int, int]) -> None:
        """`run` are the finished steps of the whole run, and all its steps."""
        self.bar.reset(self.task, total=steps, description=title, note="")
        self.bar.update(self.run_task, completed=run[0], total=run[1], visible=True)

    def step(self, *, loss: float, clips_per_second: float) -> None:
        note = f"loss {loss:.3f} · {clips_per_second:.0f} clips/s"
        self.bar.update(self.task, advance=1, note=note)
        self.bar.update(self.run_task, advance=1)
        self._print_now_and_then(note)

    def show_progress(self, title: str, done: int, rows: int) -> None:
        """Progress of validation, and of the cache before a phase; without a terminal, a line now and then."""
        self.bar.update(self.task, completed=done, total=rows, description=title, note="")
        self._print_now_and_then()

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)
        if not self.console.is_terminal:
            self.print_line(epoch_line(self.records) + self._time_left())

    def _print_now_and_then(self, note: str = "") -> None:
        """Without a terminal, the progress of the current task as a line every minute at most."""
        if not self.console.is_terminal and time.monotonic() - self.last_line_at > SECONDS_BETWEEN_LINES:
            task = self.bar.tasks[self.task]
            note = f", {note}" * bool(note)
            self.print_line(f"{task.description}: {task.completed:.0f} of {task.total:.0f}{note}{self._time_left()}")

    def _time_left(self) -> str:
        """The remaining time of the run, as text; empty before its first steps and after its last."""
        left = self.bar.tasks[self.run_task].time_remaining
        return f", about {duration(left)} left" if left else ""

    def _picture(self) -> Group:
        """The last epochs as a table, the bars of the current epoch and of the run, and a notice."""
        table = [epoch_table(self.records, rows=self.rows, width=self.console.width)] if self.records else []
        notice = [Text(f"finetune: {self.notice}")] if self.notice else []
        return Group(*table, self.bar, *notice)
