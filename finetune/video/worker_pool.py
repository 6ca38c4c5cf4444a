"""Worker processes that can be killed: a file that hangs or crashes its decoder costs that file alone.

Each process has a thread here, which sends it items one after the other. When the process dies or an item takes too
long, the item gets a `WorkerFailure` and a new process takes over. Processes share nothing but a pipe to their thread,
so none can leave a lock behind.
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
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

START_TIMEOUT_SECONDS = 300  # for a process to import what it needs on a busy machine
MAX_ITEM_SECONDS = 3600.0  # for one item, with any number of heartbeats
ITEMS_IN_PIPE = 2  # that a process has at once: the one it works on, and the next

# Starting a process reads the exit statuses of all processes that have ended, and each can be read only once.
_PROCESS_LOCK = threading.Lock()


@dataclass(frozen=True)
class WorkerFailure:
    """The result of an item whose process had to be replaced."""

    reason: str


@dataclass(frozen=True)
class _RaisedError:
    """An exception that the function raised: a bug, as errors of files are part of its result."""

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
    """This process cannot start others, or must not."""


class WorkerPool:
    """`count` processes that apply a function to items; each result is the function's, or a `WorkerFailure`.

    The function, which is sent to each process once, and the items must be picklable, and items at most a few kB.
    `begin` is called in each process first. `time_limit` is in seconds for each item; with `extend_on_heartbeat` it
    restarts whenever the function calls `Heartbeat.send`, up to MAX_ITEM_SECONDS in all. A script needs no guard `if
    __name__ == "__main__":`, unless it defines the function. Close the pool, or use it as a context manager.

    Where no process can be started, as in a daemonic process (such as those of multiprocessing.Pool), items are
    processed in this process when they are submitted: with the same results, but without protection from files that
    hang or crash.
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
        with suppress(_CannotStartProcess):  # those that could be started do all the work
            for _ in range(count):
                handlers.append(_WorkerThread(function, begin, self._tasks, time_limit))
        self._function = None if handlers else function
        self._handlers = handlers
        # No thread may hold a reference to the pool, or it would never be collected.
        self._finalizer = weakref.finalize(self, _close, handlers, self._tasks)

    def submit(self, item: Any) -> Future:
        """A future of the item's result; it raises RuntimeError, with the traceback, where the function raised."""
        assert self._finalizer.alive, "the pool is closed"
        future: Future = Future()
        if self._function is None:
            self._tasks.put((item, future))
            return future
        try:
            future.set_result(self._function(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def kill_running(self) -> None:
        """Kill the processes: the items that they work on get a `WorkerFailure`, and new processes take over.

        A process that has only just been started is not killed.
        """
        for handler in self._handlers:
            if handler.is_ready:
                handler.process.kill()

    def close(self) -> None:
        """Kill all processes now; items that are not finished get a RuntimeError."""
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
    """For each item, in order, the function's result or a `WorkerFailure`; only a few items are submitted ahead."""
    with WorkerPool(function, count=count, time_limit=time_limit, extend_on_heartbeat=extend_on_heartbeat) as workers:
        remaining = iter(items)
        pending = deque(workers.submit(item) for item in itertools.islice(remaining, 8 * count))
        while pending:
            yield pending.popleft().result()
            pending.extend(workers.submit(item) for item in itertools.islice(remaining, 1))


class _WorkerThread(threading.Thread):
    """The thread of one process at a time, and the items that this process has been given."""

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
        self.closing = self.is_ready = False
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
        except Exception as error:  # closed, or a bug: all remaining items get the same error
            self._end_process()
            for _, future in itertools.chain(self.given, iter(self.tasks.get, None)):
                if future.running() or future.set_running_or_notify_cancel():
                    future.set_exception(error)

    def stop(self) -> None:
        """Called from another thread, after a None was put into the queue behind all tasks."""
        self.closing = True
        self.process.kill()

    def _take(self) -> None:
        """Send items to the process until it has enough; wait for items only when it has none."""
        while len(self.given) < ITEMS_IN_PIPE:
            try:
                task = self.tasks.get(block=not self.given)
            except queue.Empty:
                return
            if task is None:
                self.tasks.put(None)
                raise RuntimeError("the worker pool was closed")
            if task[1].set_running_or_notify_cancel():
                self.given.append(task)
                if not self._send(task[0]) and len(self.given) == 1:  # it died while it was idle
                    self._replace_process()

    def _finish_first(self) -> None:
        if not self.given:
            return
        result = self._expect(self.time_limit)
        _, future = self.given.popleft()
        if isinstance(result, _RaisedError):
            future.set_exception(RuntimeError(f"in a worker process:\n{result.text}"))
        else:
            future.set_result(result)
        if isinstance(result, WorkerFailure):
            self._replace_process()

    def _send(self, item: Any) -> bool:
        """False when the process has died, which `_expect` then reports."""
        try:
            self.connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _expect(self, limit: float) -> Any:
        """The next result, or a `WorkerFailure`. Raises RuntimeError when the pool is being closed."""
        deadline = time.monotonic() + max(limit, MAX_ITEM_SECONDS)
        try:
            while self.connection.poll(min(limit, max(0.0, deadline - time.monotonic()))):
                result = self.connection.recv()
                if not isinstance(result, _Progress):
                    return result
            reason = f"took longer than {limit:g} s to read"
        except (EOFError, OSError):
            with _PROCESS_LOCK:
                self.process.join(10)
            reason = f"crashed the process that read it ({_exit_reason(self.process.exitcode)})"
        if self.closing:
            raise RuntimeError("the worker pool was closed")
        return WorkerFailure(reason)

    def _expect_ready(self) -> None:
        if self.closing:  # `stop` may have been called before this process existed
            raise RuntimeError("the worker pool was closed")
        failure = self._expect(START_TIMEOUT_SECONDS)
        if failure is not None:
            raise RuntimeError(f"a worker process did not start: {failure.reason}")
        self.is_ready = True

    def _replace_process(self) -> None:
        self._end_process()
        self._start_process()
        self._expect_ready()
        for item, _ in self.given:
            self._send(item)

    def _start_process(self) -> None:
        context, self.is_ready = _context(), False
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
        if handler is not threading.current_thread():  # the last reference may have been dropped in one of them
            handler.join(10)


def _exit_reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals that ask to stop in a new process, also while it imports: they are for the user's process.

    The new process ends with that one, or by SIGKILL.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_module_hidden(function: Callable[[Any], Any]) -> Iterator[None]:
    """Keep a new process from importing the user's script, unless the function is defined there."""
    where = getattr(function, "__module__", None) or type(function).__module__
    main = sys.modules["__main__"]
    try:
        if where != "__main__":
            sys.modules["__main__"] = ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = main


def _context() -> Any:
    """Not fork: a copy of a process whose threads hold locks can hang, and decoders must not be shared."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # What all processes need is imported once by the fork server; torch only where this process uses it.
    context.set_forkserver_preload(
        ["finetune.video.dataset" if "torch" in sys.modules else "finetune.video.decode.probe"]
    )
    return context


def start_fork_server() -> None:
    """Start the process that worker processes are forked from, so that it imports while this program does.

    Without this it starts with the first worker, which then waits for seconds.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(["finetune.video.dataset"])
        with _signals_blocked(), _PROCESS_LOCK:
            forkserver.ensure_running()


def _init_heartbeat(seconds: float, begin: Callable[[], None] | None) -> None:
    Heartbeat.every_seconds = seconds
    if begin is not None:
        begin()


def _worker_main(connection: Connection, function: Callable[[Any], Any], begin: Callable[[], None] | None) -> None:
    """What a worker process runs, until its pipe is closed or its parent ends."""
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
    """End with the parent process: a decoder that hangs would otherwise outlive a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
