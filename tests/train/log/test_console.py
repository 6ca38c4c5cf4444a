"""The table of epochs on a terminal."""

import io

from rich.console import Console

from finetune.train.log.console import Display

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


def test_an_epoch_fits_into_80_columns():
    display = Display(quiet=True)
    display.epoch(RECORD)
    text = io.StringIO()
    Console(file=text, width=80).print(display._picture())
    header, values = text.getvalue().splitlines()[:2]
    assert header.split() == ["epoch", "trains", "lr", "loss", "top-1", "val", "loss", "val", "top-1", "seconds"]
    assert values.split() == ["12", "temporal", "…", "head", "1e-04…3e-04", "1.610", "0.300", "1.323", "0.487", "7.5"]
