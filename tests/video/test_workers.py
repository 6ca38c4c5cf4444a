"""Whatever an item does to its process, all others get their results."""

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.video.workers import Failure, Workers, supervised_map


def act(item):
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(3)
    if item == "sleep":
        time.sleep(60)
    if item == "hold":  # asleep in C, with the interpreter's lock held
        ctypes.PyDLL(None).sleep(60)
    if item == "raise":
        raise KeyError("no such thing")
    time.sleep(0.05)
    return item * 2, os.getpid()


def begin_with_nothing():
    os._exit(7)


def results(items, *, count=2, time_limit=20):
    return list(supervised_map(act, items, count=count, time_limit=time_limit))


def test_results_come_in_order_from_several_processes():
    found = results(range(40))
    assert [value for value, _ in found] == [2 * n for n in range(40)]
    assert len({pid for _, pid in found} - {os.getpid()}) == 2


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("crash", r"crashed the process that read it \(SIGSEGV\)"),
        ("exit", r"crashed the process that read it \(exit status 3\)"),
        ("sleep", "took longer than 1 s to read"),
        ("hold", "took longer than 1 s to read"),
    ],
)
def test_an_item_that_takes_its_process_down_costs_that_item_alone(item, reason):
    items = [1, 2, item, 3, 4, item, 5]
    started = time.monotonic()
    found = results(items, count=1, time_limit=1)
    assert time.monotonic() - started < 40
    for given, result in zip(items, found, strict=True):
        if given == item:
            assert isinstance(result, Failure)
            assert re.search(reason, result.reason)
        else:
            assert result[0] == 2 * given


def test_what_the_function_raises_is_raised_here_with_its_trace():
    with Workers(act, count=1, time_limit=20) as workers:
        with pytest.raises(RuntimeError, match=r"(?s)in a worker process:.*in act.*no such thing"):
            workers.submit("raise").result()
        assert workers.submit(4).result()[0] == 8


def test_a_process_that_does_not_come_up_is_an_error_and_no_endless_loop():
    with (
        Workers(act, count=1, time_limit=5, begin=begin_with_nothing) as workers,
        pytest.raises(RuntimeError, match=r"a worker process did not start: .*exit status 7"),
    ):
        workers.submit(1).result()


def test_closing_ends_processes_at_once_and_what_was_waiting():
    before = set(multiprocessing.active_children())
    workers = Workers(act, count=2, time_limit=60)
    workers.submit(1).result()
    futures = [workers.submit("sleep") for _ in range(6)]
    time.sleep(0.5)
    started = time.monotonic()
    workers.close()
    assert time.monotonic() - started < 5
    assert set(multiprocessing.active_children()) <= before
    for future in futures:
        with pytest.raises(RuntimeError):
            future.result(timeout=5)


def test_workers_that_nobody_holds_are_ended():
    workers = Workers(act, count=1, time_limit=60)
    pid = workers.submit(1).result()[1]
    del workers
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_script_needs_no_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from os.path import basename\n"
        "from finetune.video.workers import supervised_map\n"
        "print('begun')\n"
        "print(*supervised_map(basename, ['a/b', 'c/d'], count=2, time_limit=20))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("begun\nb d\n", "")
