"""Import the libraries of optional extras, with an error that names the extra where one is missing.

OpenVINO and NNCF report usage over the network through the package openvino_telemetry. Both do without that package, so
it is hidden from them.
"""

import logging
import sys
from importlib import import_module
from typing import Any

from finetune.errors import RunError


def import_extra(*libraries: str, extra: str) -> Any:
    """The last of some libraries; raises RunError with the pip command where one is not installed."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns that there is no CUDA
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it now fails
    for library in libraries:
        try:
            module = import_module(library)
        except ImportError as error:
            command = f'pip install "finetune-video[{extra}]"'
            raise RunError(f"{library} cannot be imported ({error}); install it with: {command}") from None
    return module
