"""Progress of commands on stderr: bars in a terminal, else a line every few seconds with the time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune.text import duration

WRITING_REPORT = "writing the report"
SECONDS_BETWEEN_LINES = 10.0  # where stderr is a file or a pipe


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of one task; yields a function of (done, total)."""
    with progress_bars() as show:
        yield lambda done, total: show(what, done, total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show the progress of several tasks in turn; yields a function of (what, done, total)."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    console = Console(stderr=True)
    console.file = console.file  # the stream itself: SanitizedOutput would escape the control characters of bars
    if not console.is_terminal:
        yield _ProgressLines()
        return
    # Other output on a terminal appears above the bars; a file or a pipe is left alone.
    with Progress(console=console, redirect_stdout=sys.stdout.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            if done < bar.tasks[tasks[what]].completed:  # the next one of several, for example recordings
                bar.reset(tasks[what])
            bar.update(tasks[what], completed=done, total=total)

        yield show


def recording_progress(show: Callable[[str, int, int | None], None]) -> Callable[[float, float], None]:
    """A function of (seconds done, seconds) of a recording, which shows one recording after the other."""

    def show_recording(seconds: float, total: float) -> None:
        show("finding events, seconds", round(seconds), max(1, round(total)))

    return show_recording


class _ProgressLines:
    """Prints a line every SECONDS_BETWEEN_LINES, and one when a task is done."""

    def __init__(self) -> None:
        self.what, self.done = "", 0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != self.what or done < self.done:  # another task, or the next one of several
            self.what, self.start, self.shown = what, now, now
        self.done = done
        if done == total or now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            print(_line(what, done, total, now - self.start), file=sys.stderr, flush=True)


def _line(what: str, done: int, total: int | None, seconds: float) -> str:
    if not total or not done:
        return f"{what}: {done:,}"
    if done == total:
        return f"{what}: {done:,} of {total:,}"
    return f"{what}: {done:,} of {total:,}, about {duration(seconds * (total - done) / done)} left"
