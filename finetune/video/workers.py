"""Processes that can be killed: a file that hangs or crashes its decoder costs that file alone.

A thread here stands for each process: it hands out items one after the other, and when the process dies or an item
takes too long, that item gets a Failure and a new process takes over. Nothing is shared between processes but the
pipe to each, so none can leave a lock behind.
"""

import itertools
import multiprocessing
import queue
import signal
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

START_LIMIT_SECONDS = 300  # for a process to import what it needs, on a machine that is busy
_ONE_AT_A_TIME = threading.Lock()
AHEAD = 2  # items in a process's pipe: the one in work, and the next


@dataclass(frozen=True)
class Failure:
    """What became of an item whose process had to be replaced."""

    reason: str


@dataclass(frozen=True)
class _Raised:
    """An exception that the function raised: a mistake of ours, as what a file has wrong is part of a result."""

    text: str


class Workers:
    """`count` processes that apply a function to items; each result is the function's, or a Failure.

    Function and items have to be picklable; the function is sent to each process once. `begin` is called there
    first. `time_limit` is in seconds an item. A script needs no guard `if __name__ == "__main__":` for them, as long
    as the function is not defined in it. Close them, or use them as a context manager.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        count: int,
        time_limit: float,
        begin: Callable[[], None] | None = None,
    ) -> None:
        assert count > 0 and time_limit > 0
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        handlers = [_Handler(function, begin, self._tasks, time_limit) for _ in range(count)]
        # No thread may hold on to the Workers, or they would never be given up.
        self._finalizer = weakref.finalize(self, _close, handlers, self._tasks)

    def submit(self, item: Any) -> Future:
        """A future of the item's result; RuntimeError, with the trace, where the function raised."""
        assert self._finalizer.alive, "the workers are closed"
        future: Future = Future()
        self._tasks.put((item, future))
        return future

    def close(self) -> None:
        """End all processes now, whatever they are doing."""
        self._finalizer()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def supervised_map(
    function: Callable[[Any], Any], items: Iterable[Any], *, count: int, time_limit: float
) -> Iterator[Any]:
    """For each item, in order, the function's result or a Failure. Not more than is needed is submitted ahead."""
    with Workers(function, count=count, time_limit=time_limit) as workers:
        left = iter(items)
        under_way = deque(workers.submit(item) for item in itertools.islice(left, 8 * count))
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(workers.submit(item) for item in itertools.islice(left, 1))


class _Handler(threading.Thread):
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
        self._start_process()
        self.start()

    def run(self) -> None:
        try:
            self._expect(START_LIMIT_SECONDS, None)
            while self._take():
                item, future = self.given[0]
                answer = self._expect(self.time_limit, item)
                self.given.popleft()
                if isinstance(answer, Failure):
                    self._replace_process()
                if isinstance(answer, _Raised):
                    future.set_exception(RuntimeError(f"in a worker process:\n{answer.text}"))
                else:
                    future.set_result(answer)
        except Exception as error:
            for _, future in self.given:
                if not future.done():
                    future.set_exception(error)
            if not self.closing:
                _fail_all(self.tasks, error)
        finally:
            self.connection.close()

    def _take(self) -> bool:
        """Fill the process's pipe; wait only when it has nothing. False when there is nothing more to come."""
        while len(self.given) < AHEAD:
            try:
                task = self.tasks.get(block=not self.given)
            except queue.Empty:
                break
            if task is None or self.closing:
                return False
            if task[1].set_running_or_notify_cancel():
                self.given.append(task)
                self._send(task[0])
        return True

    def _send(self, item: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: seen when its answer is waited for
            self.connection.send(item)

    def _expect(self, limit: float, item: Any) -> Any:
        """The next answer, or a Failure. Raises RuntimeError for a process that does not come up."""
        try:
            if self.connection.poll(limit):
                return self.connection.recv()
            reason = f"took longer than {limit:g} s to read"
        except (EOFError, ConnectionResetError, OSError):
            self.process.join(10)
            reason = f"crashed the process that read it ({_how_it_ended(self.process.exitcode)})"
        if self.closing or item is None:
            raise RuntimeError(f"a worker process did not start: {reason}")
        return Failure(reason)

    def _start_process(self) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.function, self.begin), daemon=True)
        with _main_left_alone(self.function):
            self.process.start()
        theirs.close()

    def _replace_process(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self._start_process()
        self._expect(START_LIMIT_SECONDS, None)
        for item, _ in self.given:
            self._send(item)


def _close(handlers: list[_Handler], tasks: queue.SimpleQueue) -> None:
    for handler in handlers:
        handler.closing = True
    _fail_all(tasks, RuntimeError("the workers were closed"))
    for handler in handlers:
        tasks.put(None)
        handler.process.kill()
    for handler in handlers:
        handler.join(5)
        handler.process.join(5)


def _fail_all(tasks: queue.SimpleQueue, error: Exception) -> None:
    while True:
        try:
            task = tasks.get(block=False)
        except queue.Empty:
            return
        if task is not None and task[1].set_running_or_notify_cancel():
            task[1].set_exception(error)


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


@contextmanager
def _main_left_alone(function: Callable[[Any], Any]) -> Iterator[None]:
    """Keep a new process from running the user's script once more, unless the function is defined there."""
    where = getattr(function, "__module__", None) or type(function).__module__
    with _ONE_AT_A_TIME:
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
    context.set_forkserver_preload(["finetune.video.dataset" if "torch" in sys.modules else "finetune.video.decode"])
    return context


def _work(connection: Connection, function: Callable[[Any], Any], begin: Callable[[], None] | None) -> None:
    """The life of a process: until its pipe is closed, by whoever made it or by that one's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that made this one
    try:
        if begin is not None:
            begin()
        connection.send(None)
        while True:
            item = connection.recv()
            try:
                answer = function(item)
            except Exception:
                answer = _Raised(traceback.format_exc())
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
