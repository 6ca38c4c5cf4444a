"""Communication between processes of distributed training; with one process these functions do nothing."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import nn

from finetune.errors import FinetuneError

Decided = TypeVar("Decided")


def is_main_process() -> bool:
    """Whether this is the process that writes files; with one process, True."""
    return PartialState().is_main_process


def process_count() -> int:
    """The number of processes that train together (world size)."""
    return PartialState().num_processes


def broadcast_from_main(value: Any) -> Any:
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0]


def gather_from_all(items: Sequence[Any]) -> list[Any]:
    """The items of all processes, in the order of their ranks, in every process."""
    return gather_object(list(items)) if process_count() > 1 else list(items)


def on_main_then_broadcast(decide: Callable[[], Decided]) -> Decided:
    """The result of `decide()` in the main process, in every process; its FinetuneError is raised in every process.

    For decisions that depend on files: another process could run later and see files that did not exist before.
    """
    result: Decided | FinetuneError | None = None
    if is_main_process():
        try:
            result = decide()
        except FinetuneError as error:
            result = error
    result = broadcast_from_main(result)
    if isinstance(result, FinetuneError):
        raise result
    assert result is not None
    return result


def check_ranks_equal(model: nn.Module) -> None:
    """Assert that all processes have the same weights, bit for bit.

    First, all processes take the batch-norm statistics of the main process: until then they differ, as each process
    computes them over its own clips.
    """
    if process_count() == 1:
        return
    for buffer in model.buffers():
        broadcast(buffer)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().float().numpy().tobytes())
    digests = gather_object([digest.hexdigest()])
    PartialState().wait_for_everyone()  # if one ended now, the others would fail with a connection error instead
    assert len(set(digests)) == 1, f"weights differ between processes after a phase: {digests}"
