"""How a command ends: errors that are one line with a documented exit code, and a console that decides over nothing."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TextIO

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_REPLICAS_DIFFER = 4
EXIT_STORAGE = 5
EXIT_HUNG = 6
EXIT_COMPARISON = 7
EXIT_SIGNAL = 128
"""Plus the number of the signal."""
EXIT_CODES = {
    0: "trained",
    1: "a fault in the program, with its traceback",
    EXIT_USER_ERROR: "a mistake in the configuration, the data or the environment: the message says what to do",
    EXIT_DIVERGED: "a loss or gradient was not finite: too often in a row, or once with guard.mode=stop",
    EXIT_REPLICAS_DIFFER: "the ranks' weights or velocities are no longer the same",
    EXIT_STORAGE: "a file of the run cannot be written, or the disk failed while one was read",
    EXIT_HUNG: "a rank did not answer, or made no progress for longer than watchdog.timeout",
    EXIT_COMPARISON: "trained to the end, but a recorded update is not what the optimizer makes, or ranks differ",
    EXIT_SIGNAL + signal.SIGTERM: "SIGTERM, or Ctrl-C while a graph runs: the running update was finished and saved",
    EXIT_SIGNAL + signal.SIGINT: "Ctrl-C before the first graph ran: the first update was finished and saved",
}

# The disk, or the network to it, has failed or is full: that says nothing of a file, and the next try may do.
DISK_FAILED = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK, errno.ENOSPC, errno.EDQUOT}
# What a disk says, or the rights on it; anything else may be a bug.
DISK_REFUSES = DISK_FAILED | {errno.EROFS, errno.EFBIG}
DISK_REFUSES |= {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}

LINE_LIMIT = 2000
"""Characters of an error's line, of which a key or a file name may be made by somebody else."""
# What moves a terminal's cursor, changes its colours or the direction of writing; not the line end, tab and return.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
PATIENCE_SECONDS = 2.0
"""How long a training waits for a console that takes no more: a pager, a stopped reader, Ctrl-S."""


class RunError(Exception):
    """Ends a command with the message as one line and ``exit_code``, without a traceback.

    Args:
        message: what happened and what to do.
        exit_code: one of ``EXIT_CODES``, where it is not the class's own.
    """

    exit_code: int

    def __init__(self, message: str, exit_code: int | None = None):
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class UserError(RunError):
    """A mistake in the configuration, the data or the environment. The message names it and says what to do."""

    exit_code = EXIT_USER_ERROR


class FiguresError(UserError):
    """An evaluation has no figures, for a reason that all ranks know: they raise it together."""


class DivergedError(RunError):
    """Training produces no finite gradient any more."""

    exit_code = EXIT_DIVERGED


class ReplicasDifferError(RunError):
    """The ranks no longer hold the same weights or velocities."""

    exit_code = EXIT_REPLICAS_DIFFER


class StorageError(RunError):
    """A file of the run cannot be written, or one of the run or the data cannot be read because the disk failed."""

    exit_code = EXIT_STORAGE


def refused(error: Exception, message: str) -> RunError:
    """Return what to raise for a file that is not there, or not to be had: a mistake, or a fault of the disk."""
    return StorageError(message) if getattr(error, "errno", None) in DISK_FAILED else UserError(message)


class HungError(RunError):
    """Another rank does not answer."""

    exit_code = EXIT_HUNG


class Stopped(RunError):
    """The run was asked to stop by a signal, and has saved its state.

    Args:
        step: the state that was saved.
        numbers: for each rank the signal that it got, or None.
    """

    def __init__(self, step: int, numbers: Sequence[int | None]):
        number = next(number for number in numbers if number is not None)
        words = f"{signal.Signals(number).name}: state {step} is saved; resume=auto goes on from there"
        super().__init__(words, EXIT_SIGNAL + number)


class OneLineParser(argparse.ArgumentParser):
    """Ends the command at a mistake with one line and exit code 2; argparse itself prints the usage, too."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {one_line(message)}; see {self.prog} --help\n")


def run_command(command: Callable[[], int], speaker: Callable[[], str] = str, patience: float | None = None) -> int:
    """Return the exit code of ``command()``; a :class:`RunError` that it raises becomes one line. Bugs pass through.

    Args:
        speaker: returns who says the line, or nothing where that is clear.
        patience: seconds to wait for a console that takes no more, before lines are left out (None: for ever, as
            suits a command that only shows something).
    """
    secure_console(patience)
    try:
        return command()
    except RunError as error:
        print_error(f"{speaker()}: {error}" if speaker() else error)
        return error.exit_code
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise
        print_error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return EXIT_STORAGE


def print_error(message: object) -> None:
    """Print ``message`` on stderr as one line, the only form in which a command tells what went wrong."""
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)


def one_line(text: object) -> str:
    """Return ``text`` without line ends and control characters, and not endless: its middle is left out."""
    line = _cut(str(text))  # escapes make it longer, so once more
    return _cut("".join(sign if sign.isprintable() else escaped(sign) for sign in line))


def _cut(line: str) -> str:
    half = LINE_LIMIT // 2 - 2
    return line if len(line) <= LINE_LIMIT else f"{line[:half]} … {line[-half:]}"


def escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


def describe_exit_codes() -> str:
    """Return a line for each exit code."""
    return "\n".join(f"  {code:<5}  {meaning}" for code, meaning in EXIT_CODES.items())


def near_matches(word: str, allowed: Iterable[str], limit: int = 3) -> str:
    """Return "did you mean a, b?" for the nearest of ``allowed``, or all of them when nothing is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(word[:LINE_LIMIT], allowed, n=limit, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(sorted(allowed))}"


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
