"""Import torch and the networks, which takes seconds: commands first refuse what they can refuse without them."""

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version

from finetune.errors import FinetuneError


def import_quickly(*modules: str) -> None:
    """Import modules with garbage collection turned off, which would take a quarter of the time and find nothing.

    Ctrl-C ends the program at once meanwhile: Python itself would answer only after the library that is being loaded.
    Raises FinetuneError where torch and torchvision are of different builds: pip installs them without a complaint.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with _interrupt_ends_program():
            for module in modules:
                import_module(module)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise FinetuneError(
            f"torch {version('torch')} and torchvision {version('torchvision')} are of different builds; "
            "install both from one source, with the command on PyTorch's installation page"
        ) from None
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()  # later collections do not look through what was imported; `main` ends this


@contextmanager
def _interrupt_ends_program() -> Iterator[None]:
    """Leave Ctrl-C to the operating system, unless somebody else handles it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
