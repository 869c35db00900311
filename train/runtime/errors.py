"""How a command ends: errors that are one line with a documented exit code."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from schedules import __version__
from train.runtime.console import LINE_LIMIT, one_line, print_error, secure_console
from train.runtime.files import NotAFile

EXIT_FAULT = 1
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
    EXIT_FAULT: "a fault in the program, with its traceback",
    EXIT_USER_ERROR: "a mistake in the configuration, the data or the environment: the message says what to do",
    EXIT_DIVERGED: "a loss or gradient was not finite: too often in a row, or once with guard.mode=stop",
    EXIT_REPLICAS_DIFFER: "the ranks' weights or velocities are no longer the same",
    EXIT_STORAGE: "a file of the run cannot be written, or the disk failed while one was read",
    EXIT_HUNG: "a rank did not answer, or made no progress for longer than watchdog.timeout",
    EXIT_COMPARISON: "trained to the end, but a recorded update is not what the optimizer computes, or ranks differ",
    EXIT_SIGNAL
    + signal.SIGTERM: "SIGTERM, or Ctrl-C while a graph runs: the updates under way were finished and saved",
    EXIT_SIGNAL + signal.SIGINT: "Ctrl-C before the first graph ran: the updates under way were finished and saved",
    EXIT_SIGNAL + signal.SIGHUP: "SIGHUP, its terminal was closed: as SIGTERM",
    EXIT_SIGNAL + signal.SIGUSR1: "SIGUSR1, a scheduler's warning: as SIGTERM",
    EXIT_SIGNAL + signal.SIGUSR2: "SIGUSR2, a scheduler's warning: as SIGTERM",
}

# What another path, or more rights on it, may mend. Whatever else a file system says of a file that is asked for is its
# own failure: it is full, or the disk or the network to it is gone, for which there are ever more numbers.
_MENDED = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS}
_MENDED |= {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG}


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
    """Return what to raise where a file was asked for and not to be had: a mistake, or a fault of the disk."""
    number = getattr(error, "errno", None)
    return UserError(message) if number is None or number in _MENDED else StorageError(message)


def is_of_storage(error: OSError, folder: Path | None = None) -> bool:
    """Whether ``error``, of which nobody else has taken care, is a file system's, rather than a bug or a connection's.

    Args:
        folder: of a run: it was there, and nothing that is missing in it can be a bug.
    """
    if isinstance(error, (FileNotFoundError, FileExistsError)):
        name = os.fsdecode(error.filename or "")
        return folder is not None and Path(name).absolute().is_relative_to(folder.absolute())
    others = isinstance(error, (ConnectionError, ChildProcessError, ProcessLookupError))
    return not others and (error.errno or 0) > 0 and error.errno not in (errno.EBADF, errno.EINVAL)


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

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.add_argument("--version", action="version", version=__version__)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {one_line(message)}; see {self.prog} --help\n")


def a_path(text: str) -> Path:
    """The ``type`` of an argument that names a file or a folder; "~" is the user's own, also behind "--out="."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(os.path.expanduser(text))


def run_command(command: Callable[[], int], speaker: Callable[[], str] = str, patience: float | None = None) -> int:
    """Return the exit code of ``command()``; a :class:`RunError` that it raises becomes one line. Bugs pass through.

    Args:
        speaker: returns who says the line, or nothing where that is clear.
        patience: seconds to wait for a console that takes no more, before lines are left out (None: for ever, as
            suits a command that only shows something).
    """
    secure_console(patience)
    try:
        os.getcwd()
    except FileNotFoundError:  # MindSpore would abort the process
        print_error("the working directory was deleted; change to one that exists")
        return EXIT_USER_ERROR
    try:
        return command()
    except RunError as error:
        print_error(f"{speaker()}: {error}" if speaker() else error)
        return error.exit_code
    except OSError as error:
        mistake = isinstance(error, NotAFile)
        if not (mistake or is_of_storage(error)):
            raise
        print_error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return EXIT_USER_ERROR if mistake else EXIT_STORAGE
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "std::bad_alloc" in str(error)):  # the latter is MindSpore's
            raise
        what = str(error).partition("\n")[0]
        print_error(f"out of memory{f': {what}' if what else ''}; use a smaller model, batch or file")
        return EXIT_USER_ERROR


def describe_exit_codes() -> str:
    """Return a line for each exit code."""
    return "\n".join(f"  {code:<5}  {meaning}" for code, meaning in EXIT_CODES.items())


def near_matches(word: str, allowed: Iterable[str], limit: int = 3) -> str:
    """Return "did you mean a, b?" for the nearest of ``allowed``, or all of them when nothing is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(word[:LINE_LIMIT], allowed, n=limit, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(sorted(allowed))}"
