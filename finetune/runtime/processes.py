"""What processes that train together exchange; with one process all of it does nothing."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import nn

from finetune.errors import FinetuneError

Decided = TypeVar("Decided")


def is_main_process() -> bool:
    """Whether this process is the one that writes; true where there is but one."""
    return PartialState().is_main_process


def process_count() -> int:
    """How many processes train together."""
    return PartialState().num_processes


def broadcast_from_main(value: Any) -> Any:
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0]


def gather_from_all(items: Sequence[Any]) -> list[Any]:
    """The items of all processes, in every process."""
    return gather_object(list(items)) if process_count() > 1 else list(items)


def on_main_then_broadcast(decide: Callable[[], Decided]) -> Decided:
    """What the main process decides, in every process; also its FinetuneError. The others may be late, and see more."""
    found: Decided | FinetuneError | None = None
    if is_main_process():
        try:
            found = decide()
        except FinetuneError as error:
            found = error
    found = broadcast_from_main(found)
    if isinstance(found, FinetuneError):
        raise found
    assert found is not None
    return found


def check_ranks_equal(model: nn.Module) -> None:
    """Processes that trained together must hold the same weights, bit for bit.

    Batch norm's statistics are those of each process's own clips until here; now all have the main process's.
    """
    if process_count() == 1:
        return
    for buffer in model.buffers():
        broadcast(buffer)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.detach().cpu().float().numpy().tobytes())
    digests = gather_object([digest.hexdigest()])
    PartialState().wait_for_everyone()  # one that ends at once would take the others' connection, and the reason, along
    assert len(set(digests)) == 1, f"weights differ between processes after a phase: {digests}"
