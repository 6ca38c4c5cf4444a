"""Versions, hardware, git revision and command: what is needed to reproduce a run."""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from finetune.version import VERSION

PACKAGES = ("torch", "torchvision", "timm", "av", "accelerate", "numpy", "scikit-learn")


def environment(command: Sequence[str] = tuple(sys.argv)) -> dict[str, Any]:
    """The contents of environment.json."""
    return {
        "versions": {
            "finetune": VERSION,
            "python": platform.python_version(),
            **package_versions(PACKAGES),
        },
        "hardware": {
            "system": platform.platform(),
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "gpu": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "git": _git_revision(),
        "command": " ".join([Path(command[0]).name, *command[1:]]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The installed version of each package; None where it is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
