"""Processes that change the same cells of a journal at the same time, and may be killed at any moment."""

import os
import random
import time
from multiprocessing import get_context
from pathlib import Path

from finetune.labelling.journal import Change, ConflictError, Journal

CONTEXT = get_context("forkserver")  # imports once, in a process without threads
CONTEXT.set_forkserver_preload(["appending"])


def append_until_killed(manifest: Path, acknowledged: Path, seed: int) -> None:
    """Change random cells; each number that the journal gives is written down with the value."""
    journal, choose = Journal(manifest), random.Random(seed)
    out = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for count in range(10_000):
        path, field = f"{choose.randrange(3)}.mp4", choose.choice(["label", "group"])
        change = Change(path, field, f"{seed}-{count}", journal.value(path, field), by=str(seed))
        try:
            number = journal.append(change)
        except ConflictError:
            continue
        os.write(out, f"{number} {change.value}\n".encode())


def numbers_of(acknowledged: Path) -> dict[int, str]:
    lines = acknowledged.read_text().splitlines() if acknowledged.exists() else []
    return {int(number): value for number, value in map(str.split, lines)}


def run_and_kill(manifest: Path, folder: Path, *, processes: int, kills: int) -> dict[int, str]:
    """Values by number, as the processes got them; each process is killed in the middle, and another one starts."""
    files = [folder / f"{seed}.acknowledged" for seed in range(processes + kills)]
    running = {}
    for seed, file in enumerate(files):
        if len(running) == processes:
            oldest = min(running)
            while len(numbers_of(files[oldest])) < 5:
                assert running[oldest].exitcode is None
                time.sleep(0.002)
            running.pop(oldest).kill()
        running[seed] = CONTEXT.Process(target=append_until_killed, args=(manifest, file, seed))
        running[seed].start()
    for seed, process in running.items():
        while len(numbers_of(files[seed])) < 5:
            assert process.exitcode is None
            time.sleep(0.002)
        process.kill()
        process.join()
    by_number: dict[int, str] = {}
    for file in files:
        assert not set(by_number) & set(numbers_of(file)), "two processes got the same number"
        by_number |= numbers_of(file)
    return by_number
