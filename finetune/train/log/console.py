"""Progress of training: a bar and a table on a terminal, plain lines elsewhere; all on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.text import escape_control_characters

ROWS_SHOWN = 14
SECONDS_BETWEEN_LINES = 60


class Display:
    """A context manager for a run; call `step` after each batch and `epoch` after each epoch."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.records: list[dict[str, Any]] = []
        self.last_line_at = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task("", total=1, note="")
        self.live = Live(self._picture(), console=self.console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.bar.update(self.task, visible=False)
            self.live.update(self._picture(), refresh=True)
            self.live.stop()

    def print_line(self, text: str) -> None:
        self.last_line_at = time.monotonic()
        self.console.print(escape_control_characters(text), highlight=False, markup=False, soft_wrap=True)

    def begin_epoch(self, title: str, steps: int) -> None:
        self.bar.reset(self.task, total=steps, description=title, note="")

    def step(self, *, loss: float, clips_per_second: float) -> None:
        self.bar.update(self.task, advance=1, note=f"loss {loss:.3f} · {clips_per_second:.0f} clips/s")

    def show_cache_progress(self, title: str, done: int, rows: int) -> None:
        """Progress before the first epoch of a phase; without a terminal, a line every minute at most."""
        self.bar.update(self.task, completed=done, total=rows, description=title, note="")
        if not self.console.is_terminal and time.monotonic() - self.last_line_at > SECONDS_BETWEEN_LINES:
            self.print_line(f"{title}: {done} of {rows}")

    def epoch(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if self.console.is_terminal:
            self.live.update(self._picture())
        else:
            self.print_line("  ".join(f"{name} {value}" for name, value in _cells(record).items() if value))

    def _picture(self) -> Group:
        """The last epochs as a table, 80 columns wide for one task, and the bar, which shows clips/s."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        shown = [_cells(record) for record in self.records[-ROWS_SHOWN:]]
        for cells in shown:
            del cells["clips/s"]
        for name in shown[0] if shown else ():
            table.add_column(escape_control_characters(name), justify="left" if name == "trains" else "right")
        for cells in shown:
            table.add_row(*map(escape_control_characters, cells.values()))
        return Group(table, self.bar)


def span_of(stages: Sequence[str]) -> str:
    """The first and the last of `stages`, as text."""
    return stages[0] if len(stages) == 1 else f"{stages[0]} … {stages[-1]}"


def _cells(record: dict[str, Any]) -> dict[str, str]:
    """The cells of an epoch by column."""
    stages = record["learning"]
    rates = [record["lr"][stage] for stage in stages]
    span = f"{rates[-1]:.1e}" if min(rates) == max(rates) else f"{min(rates):.0e}…{max(rates):.0e}"
    return {
        "epoch": str(record["epoch"]),
        "trains": span_of(stages),
        "lr": span,
        "loss": f"{record['train_loss']:.3f}",
        "top-1": _format_metric(record["train_top1"]),
        "val loss": _format_metric(record["val_loss"]),
        **_validated(record),
        "clips/s": f"{record['clips_per_second']:.0f}",
        "seconds": f"{sum(record['seconds'].values()):.1f}",
    }


def _validated(record: dict[str, Any]) -> dict[str, str]:
    """The validation metrics that choose the best epoch, one for each task."""
    if "tasks" not in record:
        key, name = HEADLINE_METRICS["multilabel" if "val_map" in record else "classify"]
        return {f"val {name}": _format_metric(record[f"val_{key}"])}
    names = dict(HEADLINE_METRICS.values())
    return {
        f"{task} {name}": _format_metric(metrics[f"val_{key}"])
        for task, metrics in record["tasks"].items()
        for key, name in names.items()
        if f"val_{key}" in metrics
    }


def _format_metric(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
