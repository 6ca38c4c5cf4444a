"""Handle Ctrl-C, SIGTERM and SIGHUP during training: stop after a step, where the run can be saved."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
REPEATED_SIGNAL_SECONDS = 2.0  # in which a second signal may be the first one again, passed on by a launcher


class StopRequested(KeyboardInterrupt):
    """Raised to stop a run on request, at a point where it can be resumed."""


class StopSignalHandler:
    """A context manager: after the first signal, `check` stops the run; a second Ctrl-C ends the program at once."""

    def __init__(self, show: Callable[[str], None]) -> None:
        """`show` is called with the answer to the first signal, inside the signal handler."""
        self.show = show
        self.asked = False
        self.asked_at = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignalHandler":
        if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be caught
            for number in SIGNALS:
                if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise StopRequested when a signal has come."""
        if self.asked:
            raise StopRequested

    def check_all(self, accelerator: Accelerator) -> None:
        """Raise StopRequested in all processes when a signal has come to any of them; they have to call it together."""
        if accelerator.num_processes > 1:
            if self.asked:
                accelerator.set_trigger()
            if accelerator.check_trigger():
                raise StopRequested
            return
        self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if number == signal.SIGINT and time.monotonic() > self.asked_at + REPEATED_SIGNAL_SECONDS:
                raise KeyboardInterrupt
            return
        self.asked, self.asked_at = True, time.monotonic()
        self.show("stopping after this step to save the run; press Ctrl-C again to quit at once")
