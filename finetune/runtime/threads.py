"""How threads of the CPU wait for each other, and how many of them a piece of work gets."""

import os
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Any of these says that the user has chosen how OpenMP's threads wait.
OMP_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# In a forward pass. Two threads that sleep while they wait are as fast as one at 0.5e9 (MobileNetV3-small, 8 images of
# 224 pixels), and 1.8 times as fast at 2.4e9 (MobileNetV2).
SINGLE_THREAD_MULTIPLICATIONS = 1_000_000_000

_outer_num_threads: ContextVar[int | None] = ContextVar("_all_threads", default=None)  # within `limit_threads`


def wait_without_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has chosen otherwise.

    By default they spin for some milliseconds, which takes the core from the thread that they wait for as soon as
    another program is busy too. OpenMP reads this once, when torch is imported: it has to be set before.
    """
    if not any(name in environment for name in OMP_WAIT_VARIABLES):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def fits_one_thread(multiplications: int) -> bool:
    """Whether one thread does work with so many multiplications best."""
    return multiplications < SINGLE_THREAD_MULTIPLICATIONS


@contextmanager
def limit_threads(*, small: bool) -> Iterator[None]:
    """Let torch compute small work in one thread, as sharing it takes longer than doing it, and other work in all.

    May be nested: large work within small work gets all threads again.
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
    """The function of each item, in order; each is computed in one thread, as many at once as torch has threads.

    A result so depends neither on the number of threads nor on the other items, and no thread waits for another.
    """
    import torch

    count = min(len(items), _outer_num_threads.get() or torch.get_num_threads())
    with limit_threads(small=True):
        if count < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
