"""CPU threads: how OpenMP threads wait for each other, how many a computation uses, and one that works ahead."""

import os
from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# If any of these is set, the user has chosen how OpenMP threads wait.
OMP_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Multiplications per forward pass. Two threads that sleep while they wait are as fast as one at 0.5e9
# (MobileNetV3-small, 8 images of 224 pixels), and 1.8 times as fast at 2.4e9 (MobileNetV2).
SINGLE_THREAD_MULTIPLICATIONS = 1_000_000_000

_outer_num_threads: ContextVar[int | None] = ContextVar("_all_threads", default=None)  # set inside `limit_threads`


def wait_without_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads sleep while they wait for each other, unless the user has chosen otherwise.

    By default they spin for some milliseconds. If another program is busy too, a spinning thread can occupy the core
    that the awaited thread needs. OpenMP reads the variable once, when torch is imported: call this before.
    """
    if not any(name in environment for name in OMP_WAIT_VARIABLES):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def fits_one_thread(multiplications: int) -> bool:
    """Whether a forward pass with this many multiplications is fastest in one thread."""
    return multiplications < SINGLE_THREAD_MULTIPLICATIONS


@contextmanager
def limit_threads(*, small: bool) -> Iterator[None]:
    """Let torch use one thread for small computations, where sharing the work costs more than it saves, else all.

    May be nested: a large computation inside a small one uses all threads again.
    """
    import torch

    before = torch.get_num_threads()
    threads = _outer_num_threads.get() or before
    token = _outer_num_threads.set(threads)
    torch.set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _outer_num_threads.reset(token)


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function's result for each item, in order: one thread per item, as many at once as torch has threads.

    A result therefore depends neither on the number of threads nor on the other items.
    """
    import torch

    count = min(len(items), _outer_num_threads.get() or torch.get_num_threads())
    with limit_threads(small=True):
        if count < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))


def run_ahead(items: Iterator[Item], *, ahead: int) -> Generator[Item, None, None]:
    """The items of an iterator, of which another thread makes up to `ahead` before they are asked for.

    When this generator is closed, that thread ends after the item that it is making, and the iterator is closed.
    """
    made: Queue[tuple[str, Any]] = Queue(ahead)
    is_closed = Event()

    def put(kind: str, value: Any = None) -> None:
        while not is_closed.is_set():
            with suppress(Full):
                made.put((kind, value), timeout=0.1)
                return

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if is_closed.is_set():
                    break
            put("end")
        except BaseException as error:
            put("error", error)
        finally:
            getattr(items, "close", lambda: None)()

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        while (got := made.get())[0] == "item":
            yield got[1]
        if got[0] == "error":
            raise got[1]
    finally:
        is_closed.set()
        thread.join()
