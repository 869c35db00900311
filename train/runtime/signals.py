"""SIGTERM, Ctrl-C, a closed terminal and a scheduler's warning: the first asks the run to stop, which it
does within two more updates; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time

from train.runtime.console import PATIENCE_SECONDS, Outlet
from train.runtime.errors import EXIT_SIGNAL

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""SIGHUP: its terminal was closed; the last two: what schedulers of clusters send before the time of a job is over."""
# A terminal, msrun and a launcher may each pass the same request on.
SAME_REQUEST_SECONDS = 1.0


class StopRequest:
    """Knows whether this process was asked to stop, and by which signal.

    Python runs signal handlers between its own instructions only, but a rank may hang in a collective for ever. So the
    signals' numbers are read by a thread from a pipe that Python's C handler fills at once (``signal.set_wakeup_fd``).

    Whenever a graph runs, MindSpore puts a handler of its own for SIGINT in place, which sends SIGTERM to this process:
    a Ctrl-C during training comes here as SIGTERM.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._first = 0.0
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) has left it
                signal.signal(number, lambda *_: None)  # the pipe says it all
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True, name="signals").start()

    def __call__(self) -> bool:
        return self.number is not None

    def _watch(self, reader: int) -> None:
        while byte := os.read(reader, 1):
            number = byte[0]
            if number not in SIGNALS:
                continue
            if self.number is None:
                self._first, self.number = time.monotonic(), number
                name = signal.Signals(number).name
                words = f"{name}: stopping within two more updates, or soon in an evaluation (again to end at once)\n"
                # Not print: the main thread may hold the lock of stdout's buffer when it is stuck.
                Outlet(2, PATIENCE_SECONDS).write(words.encode())
            elif time.monotonic() - self._first > SAME_REQUEST_SECONDS:
                os._exit(EXIT_SIGNAL + number)
