"""Ctrl-C, SIGTERM and SIGHUP as a request to stop after the step in progress."""

import atexit
import os
import signal
import threading
import time
from types import CodeType

from spinup.system.terminal import say_unbuffered

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, *ENDING)


class StopSignal:
    """Takes the first of SIGNALS that arrives while a function is running as a request to stop.

    Only Ctrl-C counts a second time, and not at once: `timeout` and Slurm tell both a process and its parent, which
    tells it again. So SIGTERM and SIGHUP stay ours after the run that they ended, while the process ends.

    function: code of the function; once it has ended by an exception, signals have their earlier handlers again
    number: the signal that arrived, or None
    """

    def __init__(self, function: CodeType, quiet: bool):
        self.function, self.quiet = function, quiet
        self.number: int | None = None
        self.time, self.ended, self.handlers = 0.0, False, {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.handlers[number] = signal.signal(number, self.handle)

    def handle(self, number, frame) -> None:
        if self.number:
            since_then = time.monotonic() - self.time
            if since_then > 1 if number == signal.SIGINT else self.ended and since_then > 10:
                self.release()
                os.kill(os.getpid(), number)
            return
        while frame is not None and frame.f_code is not self.function:
            frame = frame.f_back
        if frame is None:  # the function has ended by an exception
            self.release()
            return os.kill(os.getpid(), number)
        self.number, self.time = int(number), time.monotonic()
        if not self.quiet:
            say_unbuffered("\nStopping after this step; Ctrl-C once more to stop at once\n")

    def release(self) -> None:
        """Give the signals their earlier handlers."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def release_at_end(self) -> None:
        """The same, but keep SIGTERM and SIGHUP ignored while the process ends."""
        kept = {number: self.handlers.pop(number) for number in ENDING if number in self.handlers}
        self.release()
        self.handlers, self.ended, self.time = kept, True, time.monotonic()
        ignore_at_exit()


def ignore_at_exit() -> None:
    """Have SIGTERM and SIGHUP ignored while the interpreter ends, when it would give them their default, death."""
    for number in ENDING:
        atexit.register(signal.signal, number, signal.SIG_IGN)
