"""The device that a process computes on, its precision, memory and random state."""

import ctypes
import platform
import resource
from datetime import timedelta

import torch
from accelerate import PartialState

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
PROCESS_GROUP_TIMEOUT = timedelta(hours=6)  # of processes for the one that validates
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(setting: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; `auto` is bf16 where the device multiplies it in hardware, else fp32."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def resolve_device(setting: str) -> torch.device:
    """The device of this process: the CPU by name, or what Accelerate finds; a CPU's memory is made ready for it."""
    # Several processes on a machine without a GPU find each other only when told that they are on the CPU.
    on_cpu = setting == "cpu" or not torch.accelerator.is_available()
    found = PartialState(cpu=on_cpu, timeout=PROCESS_GROUP_TIMEOUT).device
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


def wait_for_device(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that a clock can be read."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def seed_device(number: int, device: torch.device) -> None:
    """Start PyTorch's generators of the CPU and of a device from a number."""
    # Not torch.manual_seed: without a GPU it keeps each call, with its stack trace, for later.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a device computes in fp32, or in mixed precision with bf16 or fp16."""
    return torch.autocast(device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES)
