"""Keep the stack on which signals are handled, which OpenVINO replaces.

Each of its CPU plugins gives the thread a stack of its own, and restores the one before when it ends. Of two plugins
that end in the order in which they began, the second restores the stack of the first, which is freed: the next Ctrl-C
then ends the program by a segmentation fault (OpenVINO 2026.4).
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack:
    """The alternate signal stack of this thread."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """After the block, this thread has the signal stack that it had before."""
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
