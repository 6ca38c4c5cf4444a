"""Processes that can be killed: a file that hangs or crashes its decoder costs that file alone.

A thread here stands for each process: it hands out items one after the other, and when the process dies or an item
takes too long, that item gets a Failure and a new process takes over. Nothing is shared between processes but the
pipe to each, so none can leave a lock behind.
"""

import itertools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

START_TIMEOUT_SECONDS = 300  # for a process to import what it needs, on a machine that is busy
MAX_ITEM_SECONDS = 3600.0  # for an item that is still worked on
ITEMS_IN_PIPE = 2  # items in a process's pipe: the one in work, and the next

# Starting a process reads the exit status of all that have ended, and a status can be read but once.
_PROCESS_LOCK = threading.Lock()


@dataclass(frozen=True)
class WorkerFailure:
    """What became of an item whose process had to be replaced."""

    reason: str


@dataclass(frozen=True)
class _RaisedError:
    """An exception that the function raised: a mistake of ours, as what a file has wrong is part of a result."""

    text: str


@dataclass(frozen=True)
class _Progress:
    """Sent instead of a result: the function still makes progress."""


class Heartbeat:
    """How a worker process reports progress on an item; `every_seconds` is None where nobody waits for it."""

    every_seconds: float | None = None
    connection: Connection | None = None
    last: float = 0.0

    @classmethod
    def send(cls) -> None:
        """Called by a function while it makes progress with an item; see `WorkerPool`."""
        now = time.monotonic()
        if cls.every_seconds is not None and cls.connection is not None and now - cls.last >= cls.every_seconds:
            cls.last = now
            cls.connection.send(_Progress())


class _CannotStartProcess(Exception):
    """This process may not start others, or cannot."""


class WorkerPool:
    """`count` processes that apply a function to items; each result is the function's, or a Failure.

    Function and items have to be picklable, items a few kB at most; the function is sent to each process once.
    `begin` is called there first. `time_limit` is in seconds an item; with `extend_on_heartbeat` it starts anew
    whenever the function calls `send_heartbeat`, up to LONGEST_SECONDS in all. A script needs no guard `if __name__ ==
    "__main__":` for them, as long as the function is not defined in it. Close them, or use them as a context manager.

    Where no process can be started, as in a daemonic one (those of multiprocessing.Pool are), items are worked on in
    this process when they are submitted: with the same results, but a file that hangs or crashes is not survived.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        count: int,
        time_limit: float,
        extend_on_heartbeat: bool = False,
        begin: Callable[[], None] | None = None,
    ) -> None:
        assert count > 0 and time_limit > 0
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        if extend_on_heartbeat:
            begin = partial(_init_heartbeat, time_limit / 4, begin)
        handlers: list[_WorkerThread] = []
        with suppress(_CannotStartProcess):  # those that were started do the work of all
            for _ in range(count):
                handlers.append(_WorkerThread(function, begin, self._tasks, time_limit))
        self._function = None if handlers else function
        # No thread may hold on to the Workers, or they would never be given up.
        self._finalizer = weakref.finalize(self, _close, handlers, self._tasks)

    def submit(self, item: Any) -> Future:
        """A future of the item's result; RuntimeError, with the trace, where the function raised."""
        assert self._finalizer.alive, "the workers are closed"
        future: Future = Future()
        if self._function is None:
            self._tasks.put((item, future))
            return future
        try:
            future.set_result(self._function(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """End all processes now, whatever they are doing; what they have not done gets a RuntimeError."""
        self._finalizer()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def process_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    count: int,
    time_limit: float,
    extend_on_heartbeat: bool = False,
) -> Generator[Any, None, None]:
    """For each item, in order, the function's result or a Failure. Not more than is needed is submitted ahead."""
    with WorkerPool(function, count=count, time_limit=time_limit, extend_on_heartbeat=extend_on_heartbeat) as workers:
        left = iter(items)
        under_way = deque(workers.submit(item) for item in itertools.islice(left, 8 * count))
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(workers.submit(item) for item in itertools.islice(left, 1))


class _WorkerThread(threading.Thread):
    """One process after another, and what the one that lives now has been given."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        begin: Callable[[], None] | None,
        tasks: queue.SimpleQueue,
        time_limit: float,
    ) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.begin = begin
        self.tasks = tasks
        self.time_limit = time_limit
        self.given: deque[tuple[Any, Future]] = deque()
        self.closing = False
        if multiprocessing.current_process().daemon:
            raise _CannotStartProcess
        try:
            self._start_process()
        except OSError as error:
            raise _CannotStartProcess from error
        self.start()

    def run(self) -> None:
        try:
            self._expect_ready()
            while True:
                self._take()
                self._finish_first()
        except Exception as error:  # closed, or a mistake of ours: all that is still to come gets the same answer
            self._end_process()
            for _, future in itertools.chain(self.given, iter(self.tasks.get, None)):
                if future.running() or future.set_running_or_notify_cancel():
                    future.set_exception(error)

    def stop(self) -> None:
        """Called from another thread, with a None already in the queue behind all tasks."""
        self.closing = True
        self.process.kill()

    def _take(self) -> None:
        """Fill the process's pipe; wait only when it has nothing."""
        while len(self.given) < ITEMS_IN_PIPE:
            try:
                task = self.tasks.get(block=not self.given)
            except queue.Empty:
                return
            if task is None:
                self.tasks.put(None)
                raise RuntimeError("the workers were closed")
            if task[1].set_running_or_notify_cancel():
                self.given.append(task)
                if not self._send(task[0]) and len(self.given) == 1:  # it died while it had nothing to do
                    self._replace_process()

    def _finish_first(self) -> None:
        if not self.given:
            return
        answer = self._expect(self.time_limit)
        _, future = self.given.popleft()
        if isinstance(answer, _RaisedError):
            future.set_exception(RuntimeError(f"in a worker process:\n{answer.text}"))
        else:
            future.set_result(answer)
        if isinstance(answer, WorkerFailure):
            self._replace_process()

    def _send(self, item: Any) -> bool:
        """False when the process has died, which is seen again when its answer is waited for."""
        try:
            self.connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _expect(self, limit: float) -> Any:
        """The next answer, or a Failure. Raises RuntimeError when the workers are being closed."""
        longest = time.monotonic() + max(limit, MAX_ITEM_SECONDS)
        try:
            while self.connection.poll(min(limit, max(0.0, longest - time.monotonic()))):
                answer = self.connection.recv()
                if not isinstance(answer, _Progress):
                    return answer
            reason = f"took longer than {limit:g} s to read"
        except (EOFError, OSError):
            with _PROCESS_LOCK:
                self.process.join(10)
            reason = f"crashed the process that read it ({_exit_reason(self.process.exitcode)})"
        if self.closing:
            raise RuntimeError("the workers were closed")
        return WorkerFailure(reason)

    def _expect_ready(self) -> None:
        if self.closing:  # whoever is closing may have looked before there was this process to kill
            raise RuntimeError("the workers were closed")
        failure = self._expect(START_TIMEOUT_SECONDS)
        if failure is not None:
            raise RuntimeError(f"a worker process did not start: {failure.reason}")

    def _replace_process(self) -> None:
        self._end_process()
        self._start_process()
        self._expect_ready()
        for item, _ in self.given:
            self._send(item)

    def _start_process(self) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        process = context.Process(target=_worker_main, args=(theirs, self.function, self.begin), daemon=True)
        with _signals_blocked(), _PROCESS_LOCK, _main_module_hidden(self.function):
            process.start()
            self.process = process
        theirs.close()

    def _end_process(self) -> None:
        self.process.kill()
        with _PROCESS_LOCK:
            self.process.join()
        self.connection.close()


def _close(handlers: list[_WorkerThread], tasks: queue.SimpleQueue) -> None:
    for _ in handlers:
        tasks.put(None)
    for handler in handlers:
        handler.stop()
    for handler in handlers:
        if handler is not threading.current_thread():  # where the last reference went in one of them
            handler.join(10)


def _exit_reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep from a new process, also while it imports, what asks to stop: that is for the one that the user started.

    It ends with that one, or by SIGKILL.
    """
    resource_tracker.ensure_running()  # which would end the block if it came later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_module_hidden(function: Callable[[Any], Any]) -> Iterator[None]:
    """Keep a new process from running the user's script once more, unless the function is defined there."""
    where = getattr(function, "__module__", None) or type(function).__module__
    main = sys.modules["__main__"]
    try:
        if where != "__main__":
            sys.modules["__main__"] = ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = main


def _context() -> Any:
    """Not fork: a copy of a process whose threads hold locks can hang, and open decoders must not be shared."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What every process needs is imported once; where torch is in use here, it will be there.
    context.set_forkserver_preload(
        ["finetune.video.dataset" if "torch" in sys.modules else "finetune.video.decode.read"]
    )
    return context


def _init_heartbeat(seconds: float, begin: Callable[[], None] | None) -> None:
    Heartbeat.every_seconds = seconds
    if begin is not None:
        begin()


def _worker_main(connection: Connection, function: Callable[[Any], Any], begin: Callable[[], None] | None) -> None:
    """The life of a process: until its pipe is closed, by whoever made it or by that one's end."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    Heartbeat.connection = connection
    try:
        if begin is not None:
            begin()
        connection.send(None)
        while True:
            item = connection.recv()
            try:
                connection.send(function(item))
            except Exception:
                connection.send(_RaisedError(traceback.format_exc()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _exit_with_parent() -> None:
    """A file that hangs its reader would keep it alive when the one that could kill it has been killed itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
