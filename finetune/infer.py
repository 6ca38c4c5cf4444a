"""Where and how precisely a model runs, and the probabilities it gives: the same for evaluation and prediction."""

import ctypes
import hashlib
import platform
import resource
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import Tensor, nn

from finetune.errors import FinetuneError
from finetune.model.consensus import agree
from finetune.model.cut import Cut
from finetune.model.model import VideoClassifier
from finetune.tasks import Output
from finetune.threads import threads_for

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
LONGEST_WAIT = timedelta(hours=6)  # of processes for the one that validates
Decided = TypeVar("Decided")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def settle_precision(setting: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; `auto` is bf16 where the device multiplies it in hardware, else fp32."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def settle_device(setting: str) -> torch.device:
    """The device of this process: the CPU by name, or what Accelerate finds; a CPU's memory is made ready for it."""
    # Several processes on a machine without a GPU find each other only when told that they are on the CPU.
    on_cpu = setting == "cpu" or not torch.accelerator.is_available()
    found = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT).device
    device = torch.device("cpu") if setting == "cpu" else found
    if device.type == "cpu":
        keep_freed_memory()
    return device


def peak_gb(device: torch.device) -> float:
    """The most memory that this process has held at once, in GB: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(of_process * (1 if platform.system() == "Darwin" else 1024) / 1e9, 3)


def keep_freed_memory() -> bool:
    """Let the C library keep what one step frees for the next, instead of giving it back to the system each time.

    Activations are large blocks, and the system clears each page of them anew: without this a network spends more
    time on that than on its arithmetic (benchmarks/allocator.py). Does nothing, and says so, where the library is
    not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def seed_device(number: int, device: torch.device) -> None:
    """Start PyTorch's generators of the CPU and of a device from a number."""
    # Not torch.manual_seed: without a GPU it keeps each call, with its stack trace, for later.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def is_main_process() -> bool:
    """Whether this process is the one that writes; true where there is but one."""
    return PartialState().is_main_process


def process_count() -> int:
    """How many processes train together."""
    return PartialState().num_processes


def from_main(value: Any) -> Any:
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0]


def from_all(items: Sequence[Any]) -> list[Any]:
    """The items of all processes, in every process."""
    return gather_object(list(items)) if process_count() > 1 else list(items)


def decided_once(decide: Callable[[], Decided]) -> Decided:
    """What the main process decides, in every process; also its FinetuneError. The others may be late, and see more."""
    found: Decided | FinetuneError | None = None
    if is_main_process():
        try:
            found = decide()
        except FinetuneError as error:
            found = error
    found = from_main(found)
    if isinstance(found, FinetuneError):
        raise found
    assert found is not None
    return found


def refuse_ranks_that_differ(model: nn.Module) -> None:
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


def precisely(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a device computes in fp32, or in mixed precision with bf16 or fp16."""
    return torch.autocast(device.type, DTYPES.get(precision), enabled=precision in DTYPES)


@torch.inference_mode()
def answers(
    model: VideoClassifier, clips_BVTCHW: Tensor, *, precision: str, cut: Cut | None = None
) -> dict[str, Tensor]:
    """What a model says of each task, in float32 on the CPU; it has to be in evaluation mode.

    Of classes and levels the probabilities (B, K) that the views agree on, of numbers what each view gives (B, V, K),
    boxes and motion in shares of the model's picture. With a `cut`, of what enters there of each view, (B, V,
    *cut.item). Views are computed one after the other, so that memory does not grow with them. Videos computed
    together may differ from one computed alone in the last digits: where numbers have to be the very same, B is 1.
    """
    device = next(model.parameters()).device
    views: list[dict[str, Tensor]] = []
    for view in range(clips_BVTCHW.shape[1]):
        with precisely(precision, device), threads_for(small=model.is_small):
            views.append(model(clips_BVTCHW[:, view].to(device), cut))
    return {
        task: _answer(model, task, output, torch.stack([each[task] for each in views])).cpu()
        for task, output in model.outputs.items()
    }


def probabilities(model: VideoClassifier, clips_BVTCHW: Tensor, *, precision: str) -> Tensor:
    """Class probabilities (B, K) of a model's first task that has classes; see `answers`."""
    return answers(model, clips_BVTCHW, precision=precision)[model.primary]


def _answer(model: VideoClassifier, task: str, output: Output, logits_VBK: Tensor) -> Tensor:
    if not output.is_named:
        scale, center = (torch.tensor(each, device=logits_VBK.device) for each in (output.scale, output.center))
        return (logits_VBK.float() * scale + center).transpose(0, 1)
    probs_BK = agree(logits_VBK, model.consensus, multilabel=output.kind != "classify")
    return of_levels(probs_BK) if output.kind == "ordinal" else probs_BK


def of_levels(reached_BK: Tensor) -> Tensor:
    """Probabilities of levels (B, K + 1) from those that each but the lowest is reached (B, K), made to fall."""
    falling = reached_BK.cummin(1).values
    ones = torch.ones_like(falling[:, :1])
    return torch.cat([ones, falling], 1) - torch.cat([falling, 0 * ones], 1)
