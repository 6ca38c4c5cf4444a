"""The device that a process computes on, its precision, memory and random state."""

import ctypes
import platform
import resource
from datetime import timedelta

import torch
from accelerate import PartialState

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
PROCESS_GROUP_TIMEOUT = timedelta(hours=6)  # other processes wait while the main process validates
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
    """The device of this process: `cpu`, or for `auto` the one that Accelerate chooses. See `keep_freed_memory`."""
    # Without a GPU, several processes connect only if `cpu` is set.
    on_cpu = setting == "cpu" or not torch.accelerator.is_available()
    chosen = PartialState(cpu=on_cpu, timeout=PROCESS_GROUP_TIMEOUT).device
    device = torch.device("cpu") if setting == "cpu" else chosen
    if device.type == "cpu":
        keep_freed_memory()
    return device


def peak_gb(device: torch.device) -> float:
    """Peak memory of this process in GB (10⁹ bytes): on a GPU its allocated memory, else the process's main memory."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(of_process * (1 if platform.system() == "Darwin" else 1024) / 1e9, 3)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next step, instead of returning it to the operating system.

    Activations are large blocks, and the system clears every page that it hands out: without this, clearing can take
    longer than the computation (benchmarks/allocator.py). Returns False, without any effect, if the C library is not
    glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def wait_for_device(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work; needed before measuring time."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def seed_device(number: int, device: torch.device) -> None:
    """Seed PyTorch's random generators of the CPU and of a device."""
    # Not torch.manual_seed: without a GPU it stores every call, with its stack trace.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context for forward passes: mixed precision with bf16 or fp16; with fp32 it changes nothing."""
    return torch.autocast(device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES)
