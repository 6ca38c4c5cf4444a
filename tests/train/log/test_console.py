"""Epochs and progress on a terminal of any width, and in a file or a pipe."""

import io

import pytest
from rich.console import Console

from finetune.train.log import console
from finetune.train.log.console import Display
from finetune.train.log.epoch_table import epoch_line, epoch_table

RECORD = {
    "epoch": 12,
    "learning": ["temporal", "head"],
    "lr": {"temporal": 1e-4, "head": 3e-4},
    "train_loss": 1.61,
    "train_top1": 0.3,
    "val_loss": 1.323,
    "val_top1": 0.487,
    "clips_per_second": 53.2,
    "seconds": {"data": 1.0, "compute": 5.5, "evaluate": 1.0},
}
TASKS = {
    "action": {"val_top1": 0.512, "val_loss": 1.0},
    "box": {"val_mean_iou": 0.713, "val_loss": 0.3},
    "drift of the camera": {"val_correlation": 0.914, "val_loss": 0.1},
    "level": {"val_top1": 0.415, "val_loss": 0.1},
    "size": {"val_r2": 0.316, "val_loss": 0.1},
}


def epochs(*scores, **more):
    return [RECORD | more | {"epoch": number, "val_top1": score} for number, score in enumerate(scores, 1)]


def lines_of(picture, width):
    text = io.StringIO()
    Console(file=text, width=width).print(picture)
    return text.getvalue().splitlines()


def test_an_epoch_of_one_task_fits_into_80_columns():
    above, header, values, *_ = lines_of(epoch_table([RECORD], rows=14, width=80), 80)
    assert above.split() == ["val", "val"]
    assert header.split() == ["epoch", "trains", "lr", "loss", "top-1", "loss", "top-1", "seconds"]
    assert values.split() == ["12*", "temporal", "…", "head", "1e-04…3e-04", "1.610", "0.300", "1.323", "0.487", "7.5"]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_no_figure_of_many_tasks_is_cut_however_narrow_the_terminal(width):
    record = RECORD | {"tasks": TASKS, "val_score": 0.57}
    *_, values, _note = lines_of(epoch_table([record], rows=14, width=width), width)
    cells, scores = set(values.split()), {"0.512", "0.713", "0.914", "0.415", "0.316"}
    assert len(values) <= width
    assert (
        {"12*", "0.512"}
        <= cells
        <= scores | {"12*", "temporal", "…", "head", "1e-04…3e-04"} | {*("1.610", "0.300", "1.323", "7.5")}
    )
    assert width < 80 or scores <= cells


def test_the_best_epoch_is_marked_and_stays_when_it_is_older_than_the_last():
    records = epochs(0.2, 0.9, 0.4, 0.5, 0.6)
    *_, first, second, third, note = lines_of(epoch_table(records, rows=3, width=80), 80)
    assert [line.split()[0] for line in (first, second, third)] == ["2*", "4", "5"]
    assert note.strip() == "* best epoch"
    assert epoch_line(records[:2]).endswith("best so far")
    assert "best" not in epoch_line(records)


def test_without_validation_no_epoch_is_best():
    records = epochs(None, None, val_loss=None)
    assert not any("best" in line for line in lines_of(epoch_table(records, rows=3, width=80), 80))
    assert "best" not in epoch_line(records) and "val" not in epoch_line(records)


def test_a_resumed_run_shows_its_earlier_epochs():
    display = Display(quiet=True)
    display.resume(epochs(0.2, 0.3))
    display.epoch(RECORD)
    rows = lines_of(display._picture(), 80)
    assert [row.split()[0] for row in rows[2:5]] == ["1", "2", "12*"]


def test_a_pipe_gets_epochs_and_a_line_now_and_then_with_the_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    display = Display()
    display.bar.get_time = lambda: now[0]
    with display:
        display.begin_epoch("epoch 1/2", 100, run=(0, 200))
        for _ in range(100):
            now[0] += 2
            display.step(loss=0.5, clips_per_second=8)
        display.epoch(RECORD)
        now[0] += 61
        display.show_progress("caching frozen features, train rows", 3, 7)
    first, second, third, epoch, cache = capsys.readouterr().err.splitlines()
    assert first == "epoch 1/2: 31 of 100, loss 0.500 · 8 clips/s, about 6 min left"
    assert (second[:22], third[:22]) == ("epoch 1/2: 62 of 100, ", "epoch 1/2: 93 of 100, ")
    assert epoch.startswith("epoch 12  trains temporal … head  lr 1e-04…3e-04  loss 1.610  top-1 0.300  val loss 1.323")
    assert epoch.endswith("seconds 7.5  clips/s 53  best so far, about 3 min left")
    assert cache.startswith("caching frozen features, train rows: 3 of 7")
