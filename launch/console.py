"""What the launcher says. Console problems never affect the job: the ranks' end and the exit code do not depend on it.

It may be a closed terminal or pipe, a full disk, or stopped; its encoding may lack a sign. Only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys

LINE_LIMIT = 2000  # characters of an error's line, of which an argument may be a part
STDOUT, STDERR = 1, 2
ENCODING = getattr(sys.stderr, "encoding", "utf-8")  # none: closed
PATIENCE_SECONDS = 2.0  # for a terminal or pipe that takes no more (Ctrl-S, a stopped reader): all is in the logs
# What moves a terminal's cursor, changes its colours or the direction of writing; not the tab and the line end.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def say(message: str) -> None:
    show(f"launch: {message}")


def one_line(text: str) -> str:
    """Return ``text`` without line ends and control characters, and not endless: its middle is left out."""
    half = LINE_LIMIT // 2 - 2
    line = "".join(sign if sign.isprintable() else escaped(sign) for sign in text)
    return line if len(line) <= LINE_LIMIT else f"{line[:half]} … {line[-half:]}"


def escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


_stalled: set[int] = set()


def show(text: str, fd: int = STDERR) -> None:
    """Write ``text`` and a line end, as far as ``fd`` takes it."""
    line = CONTROLS.sub(lambda found: escaped(found[0]), text) + "\n"
    data = line.encode(ENCODING, "backslashreplace")
    with contextlib.suppress(OSError):
        while data and takes_more(fd):
            data = data[os.write(fd, data[: select.PIPE_BUF]) :]  # so much never blocks where some room is


def takes_more(fd: int) -> bool:
    """Wait for room; after a wait in vain no more, until there is some again."""
    wait = select.poll()
    wait.register(fd, select.POLLOUT)
    ready = bool(wait.poll(0 if fd in _stalled else PATIENCE_SECONDS * 1000))
    (_stalled.discard if ready else _stalled.add)(fd)
    return ready
