"""Whatever an item does to its process, all other items get their results."""

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from finetune.video.worker_pool import WorkerFailure, WorkerPool, process_map


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
    if item == "lock":
        return threading.Lock()
    time.sleep(0.05)
    return item * 2, os.getpid()


def begin_with_nothing():
    os._exit(7)


def results(items, *, count=2, time_limit=20):
    return list(process_map(act, items, count=count, time_limit=time_limit))


def test_results_come_in_order_from_several_processes():
    found = results(range(40))
    assert [value for value, _ in found] == [2 * n for n in range(40)]
    assert len({pid for _, pid in found} - {os.getpid()}) == 2


def send_results(connection):
    connection.send(results(range(40)))


@pytest.mark.slow
def test_a_daemonic_process_that_may_start_none_does_the_work_itself():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=send_results, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(60)
    assert ours.recv() == [(2 * n, process.pid) for n in range(40)]
    process.join()


def test_where_no_process_can_be_started_the_work_is_done_in_this_one(monkeypatch):
    def refuse(handler):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("finetune.video.worker_pool._WorkerThread._start_process", refuse)
    assert results(range(3)) == [(2 * n, os.getpid()) for n in range(3)]
    with pytest.raises(KeyError, match="no such thing"):
        results([1, "raise", 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "time_limit", "reason"),
    [
        ("crash", 40, r"crashed the process that read it \(SIGSEGV\)"),
        ("exit", 40, r"crashed the process that read it \(exit status 3\)"),
        ("sleep", 3, "took longer than 3 s to read"),
        ("hold", 3, "took longer than 3 s to read"),
    ],
)
def test_an_item_that_takes_its_process_down_costs_that_item_alone(item, time_limit, reason):
    items = [1, 2, item, 3, 4, item, 5]
    found = results(items, count=1, time_limit=time_limit)
    for given, result in zip(items, found, strict=True):
        if given == item:
            assert isinstance(result, WorkerFailure)
            assert re.search(reason, result.reason)
        else:
            assert result[0] == 2 * given


def test_what_the_function_raises_is_raised_here_with_its_trace():
    with WorkerPool(act, count=1, time_limit=20) as workers:
        with pytest.raises(RuntimeError, match=r"(?s)in a worker process:.*in act.*no such thing"):
            workers.submit("raise").result()
        with pytest.raises(RuntimeError, match=r"(?s)in a worker process:.*cannot pickle"):
            workers.submit("lock").result()
        assert workers.submit(4).result()[0] == 8


def test_a_process_that_was_killed_while_it_had_nothing_to_do_costs_no_item():
    with WorkerPool(act, count=1, time_limit=40) as workers:
        pid = workers.submit(1).result()[1]
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        value, other = workers.submit(2).result()
        assert value == 4
        assert other != pid


def test_a_process_that_does_not_come_up_is_an_error_and_no_endless_loop():
    with (
        WorkerPool(act, count=1, time_limit=5, begin=begin_with_nothing) as workers,
    ):
        for _ in range(3):  # what is submitted after it is known too
            with pytest.raises(RuntimeError, match=r"a worker process did not start: .*exit status 7"):
                workers.submit(1).result()


def test_closing_ends_processes_at_once_and_what_was_waiting():
    before = set(multiprocessing.active_children())
    workers = WorkerPool(act, count=2, time_limit=60)
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


def test_closing_while_processes_start_leaves_none():
    before = set(multiprocessing.active_children())
    for delay in (0, 0.005, 0.02):
        workers = WorkerPool(act, count=2, time_limit=60)
        future = workers.submit(1)
        time.sleep(delay)
        workers.close()
        assert future.done()
    assert set(multiprocessing.active_children()) <= before


def test_workers_that_nobody_holds_are_ended():
    workers = WorkerPool(act, count=1, time_limit=60)
    pid = workers.submit(1).result()[1]
    del workers
    wait_until_gone(pid)


SCRIPT = """
import os, sys, time
from pathlib import Path
from finetune.video.worker_pool import WorkerPool

def act(item):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    with WorkerPool(act, count=2, time_limit=600) as workers:
        futures = [workers.submit(n) for n in range(6)]
        print("ready", flush=True)
        futures[0].result()
"""


def start_script(folder):
    """A script in its own process group, as in a terminal, with two workers that hang."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "pids").mkdir()
    package = Path(__file__).parents[2]
    script = subprocess.Popen(
        [sys.executable, folder / "script.py", folder / "pids"],
        env={**os.environ, "PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    script.stdout.readline()
    return script


def wait_for_workers(folder):
    while len(list((folder / "pids").iterdir())) < 2:
        time.sleep(0.05)
    return [int(path.name) for path in (folder / "pids").iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 0.2, 1, None])
def test_ctrl_c_ends_everything_quickly_and_workers_say_nothing(tmp_path, delay):
    script = start_script(tmp_path)
    workers = wait_for_workers(tmp_path) if delay is None else []
    time.sleep(delay or 0)
    os.killpg(script.pid, signal.SIGINT)
    _, said = script.communicate(timeout=30)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1
    assert script.returncode == -signal.SIGINT
    for pid in workers:
        wait_until_gone(pid)
    wait_until(lambda: is_empty(script.pid))


@pytest.mark.slow
def test_workers_that_hang_end_when_their_maker_is_killed(tmp_path):
    script = start_script(tmp_path)
    workers = wait_for_workers(tmp_path)
    script.kill()
    script.communicate(timeout=30)
    for pid in workers:
        wait_until_gone(pid)


def test_a_script_needs_no_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from os.path import basename\n"
        "from finetune.video.worker_pool import process_map\n"
        "print('begun')\n"
        "print(*process_map(basename, ['a/b', 'c/d'], count=2, time_limit=20))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("begun\nb d\n", "")


def test_main_is_itself_for_others_while_processes_start(tmp_path):
    script = tmp_path / "script.py"  # a fresh one, so that the first process takes its time
    script.write_text(
        "import sys, time\n"
        "from os.path import basename\n"
        "from finetune.video.worker_pool import WorkerPool\n"
        "main = sys.modules['__main__']\n"
        "with WorkerPool(basename, count=2, time_limit=20) as workers:\n"
        "    future, seen = workers.submit('a/b'), set()\n"
        "    while not future.done():\n"
        "        seen.add(sys.modules['__main__'] is main)\n"
        "        time.sleep(0.001)\n"
        "print(future.result(), seen | {True})\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("b {True}\n", "")


def wait_until_gone(pid):
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def is_empty(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
