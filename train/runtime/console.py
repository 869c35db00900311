"""What is printed: errors in one line, text without control characters; console problems never affect a command."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import sys
from typing import Any, TextIO

LINE_LIMIT = 2000
"""Characters of an error's line, of which a key or a file name may be made by somebody else."""
# What moves a terminal's cursor, changes its colours or the direction of writing; not the line end, tab and return.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
PATIENCE_SECONDS = 2.0
"""How long a training waits for a console that takes no more: a pager, a stopped reader, Ctrl-S."""


def print_error(message: object) -> None:
    """Print ``message`` on stderr as one line, the only form in which a command tells what went wrong."""
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(text: object) -> str:
    """Return ``text`` without line ends and control characters, and not endless: its middle is left out."""
    half = LINE_LIMIT // 2 - 2
    line = "".join(sign if sign.isprintable() else escaped(sign) for sign in str(text))
    return line if len(line) <= LINE_LIMIT else f"{line[:half]} … {line[-half:]}"


def escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


class Outlet(io.RawIOBase):
    """A descriptor that takes every byte and raises nothing: what it cannot write is lost, not the run.

    Args:
        fd: of stdout or stderr, which may be a closed pipe, a full disk, a terminal that is gone.
        patience: seconds to wait until ``fd`` takes more; after a wait in vain it is not waited for again until it has
            taken something (None: wait for ever).
    """

    def __init__(self, fd: int, patience: float | None):
        self._fd = self.name = fd
        self._patience = patience
        self._stalled = False

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        length = len(left)
        with contextlib.suppress(OSError):
            while left and self._takes_more():
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]  # so much never blocks where some room is
        return length

    def _takes_more(self) -> bool:
        if self._patience is None:
            return True
        wait = select.poll()
        wait.register(self._fd, select.POLLOUT)
        self._stalled = not wait.poll(0 if self._stalled else self._patience * 1000)
        return not self._stalled

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


class Console(io.TextIOWrapper):
    """Text for people: control characters, and signs that the encoding lacks, are written as escapes."""

    def write(self, text: str) -> int:
        super().write(CONTROLS.sub(lambda found: escaped(found[0]), text))
        return len(text)


def secure_console(patience: float | None = None) -> None:
    """Let nothing that stdout or stderr are, or become, end this process or hold it up for longer than ``patience``.

    Streams that somebody else has put in place (a test's) stay.
    """
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            continue
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # else the next file opened would be the console
    sys.stdout = _secured(sys.stdout, sys.__stdout__, patience)
    sys.stderr = _secured(sys.stderr, sys.__stderr__, patience)


def _secured(stream: TextIO | None, original: TextIO | None, patience: float | None) -> TextIO:
    if stream is None:  # closed when Python started
        return Console(Outlet(os.open(os.devnull, os.O_WRONLY), patience), "utf-8")
    if stream is not original:
        return stream
    return Console(Outlet(stream.fileno(), patience), stream.encoding, errors="backslashreplace", line_buffering=True)
