"""Ctrl-C, SIGTERM and SIGHUP as a request to stop after the step in progress."""

import atexit
import os
import signal
import threading
import time
from types import CodeType

from spinup.system.terminal import say_unbuffered

TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, *TERMINATION_SIGNALS)


def is_signal(error: BaseException) -> bool:
    """Whether an exception stands for a signal that ends the process."""
    codes = [128 + number for number in TERMINATION_SIGNALS]
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in codes)


class StopSignal:
    """Records the first of SIGNALS that arrives while a function is running, as a request to stop.

    `timeout` and Slurm signal both a process and its parent, which passes the signal on, so a second signal must not
    end the run: only another Ctrl-C does, after a second. For the same reason SIGTERM and SIGHUP remain handled here
    after the run they have ended, until the process exits.

    function: the function's code; if it has already ended with an exception, the previous handler gets the signal
    number: the signal that arrived, or None
    """

    def __init__(self, function: CodeType, quiet: bool):
        self.function, self.quiet = function, quiet
        self.number: int | None = None
        self.received_at, self.run_ended, self.handlers = 0.0, False, {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.handlers[number] = signal.signal(number, self.handle)

    def handle(self, number, frame) -> None:
        if self.number:
            since_then = time.monotonic() - self.received_at
            if since_then > 1 if number == signal.SIGINT else self.run_ended and since_then > 10:
                self.restore_handlers()
                os.kill(os.getpid(), number)
            return
        while frame is not None and frame.f_code is not self.function:
            frame = frame.f_back
        if frame is None:  # the function has ended with an exception
            self.restore_handlers()
            return os.kill(os.getpid(), number)
        self.number, self.received_at = int(number), time.monotonic()
        if not self.quiet:
            say_unbuffered("\nStopping after this step; press Ctrl-C again to stop immediately\n")

    def restore_handlers(self) -> None:
        """Give the signals their previous handlers again."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def ignore_until_exit(self) -> None:
        """Keep ignoring SIGTERM and SIGHUP until the process exits, and Ctrl-C for another second."""
        self.run_ended, self.received_at = True, time.monotonic()
        ignore_at_exit()


def ignore_at_exit() -> None:
    """Ignore SIGTERM and SIGHUP while the interpreter shuts down: it would restore their default, which kills it."""
    for number in TERMINATION_SIGNALS:
        atexit.register(signal.signal, number, signal.SIG_IGN)
