"""The epochs of a run as text: a table whose columns fit the terminal, or one line an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from finetune.metrics.headline import epoch_sort_key
from finetune.metrics.headline_keys import HEADLINE_METRICS
from finetune.text import escape_control_characters

BEST_MARK = "*"  # after the number of the best epoch
_PADDING = 2  # blanks between columns
# Columns that go first where the terminal is too narrow for all.
_DROPPED_FIRST = ("lr", "trains", "seconds", "top-1", "loss", "val\nloss")


def epoch_table(records: Sequence[Mapping[str, Any]], *, rows: int, width: int) -> Table:
    """The last `rows` epochs, and the best one if it is older, in at most `width` characters.

    Figures are never cut: columns of little interest are left out instead, then the last tasks.
    """
    best = best_epoch(records)
    shown = list(records[-rows:])
    if best is not None and best not in shown:
        shown = [best, *shown[1:]]
    columns = _columns([epoch_cells(record) for record in shown], width - len(BEST_MARK))
    table = Table(box=None, padding=(0, _PADDING, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(Text(name), justify="left" if name in {"epoch", "trains"} else "right", no_wrap=True)
    for number, record in enumerate(shown):
        cells = [texts[number] for texts in columns.values()]
        if record is best:
            cells[0] += BEST_MARK
        table.add_row(*map(Text, cells), style="bold" if record is best else "")
    if best is not None:
        table.caption, table.caption_justify = f"{BEST_MARK} best epoch", "left"
    return table


def epoch_line(records: Sequence[Mapping[str, Any]]) -> str:
    """The last epoch as one line of names and values."""
    cells = epoch_cells(records[-1]) | {"clips/s": f"{records[-1]['clips_per_second']:.0f}"}
    line = "  ".join(f"{' '.join(name.split())} {value}" for name, value in cells.items() if value)
    return line + "  best so far" * (records[-1] is best_epoch(records))


def best_epoch(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The record of the epoch that was best on val; None without val rows."""
    validated = [record for record in records if record["val_loss"] is not None]
    return max(validated, key=epoch_sort_key) if validated else None


def span_of(stages: Sequence[str]) -> str:
    """The first and the last of `stages`, as text."""
    return stages[0] if len(stages) == 1 else f"{stages[0]} … {stages[-1]}"


def epoch_cells(record: Mapping[str, Any]) -> dict[str, str]:
    """The values of an epoch by column; a name of two words is written in two lines."""
    stages = record["learning"]
    rates = [record["lr"][stage] for stage in stages]
    span = f"{rates[-1]:.1e}" if min(rates) == max(rates) else f"{min(rates):.0e}…{max(rates):.0e}"
    cells = {
        "epoch": str(record["epoch"]),
        "trains": span_of(stages),
        "lr": span,
        "loss": f"{record['train_loss']:.3f}",
        "top-1": _format_metric(record["train_top1"]),
        "val\nloss": _format_metric(record["val_loss"]),
        **_validated(record),
        "seconds": f"{sum(record['seconds'].values()):.1f}",
    }
    return {escape_control_characters(name): escape_control_characters(value) for name, value in cells.items()}


def _validated(record: Mapping[str, Any]) -> dict[str, str]:
    """The validation metrics that choose the best epoch, one for each task."""
    if "tasks" not in record:
        key, name = HEADLINE_METRICS["multilabel" if "val_map" in record else "classify"]
        return {f"val\n{name}": _format_metric(record[f"val_{key}"])}
    names = dict(HEADLINE_METRICS.values())
    return {
        f"{task}\n{name}": _format_metric(metrics[f"val_{key}"])
        for task, metrics in record["tasks"].items()
        for key, name in names.items()
        if f"val_{key}" in metrics
    }


def _columns(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, list[str]]:
    """The values of each column that fits, by its name; a column without values is left out."""
    names = list(dict.fromkeys(name for cells in rows for name in cells))
    columns = {name: [cells.get(name, "") for cells in rows] for name in names}
    columns = {name: texts for name, texts in columns.items() if any(texts)}
    for name in (*_DROPPED_FIRST, *reversed(names[1:])):
        if sum(_width(name, texts) + _PADDING for name, texts in columns.items()) - _PADDING <= width:
            break
        columns.pop(name, None)
    return columns


def _width(name: str, texts: Sequence[str]) -> int:
    return max(map(cell_len, [*name.split("\n"), *texts]))


def _format_metric(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
