"""Errors that end a run with one line and a documented exit code, without a traceback.

=====  ==========================================================================================
code   meaning
=====  ==========================================================================================
0      trained
1      a fault in the program, with its traceback
2      a mistake in the configuration, the data or the environment: the message says what to do
3      a loss or gradient was not finite: too often in a row, or once with ``guard.mode=stop``
4      the ranks' weights or velocities are no longer the same
5      a checkpoint, or anything else of the run, cannot be written
6      a rank did not answer, or made no progress for longer than ``watchdog.timeout``
7      trained to the end, but an observed update is not lr times v
143    SIGTERM, or Ctrl-C while a graph runs: the running update was finished and saved
130    Ctrl-C before the first graph ran: the first update was finished and saved
=====  ==========================================================================================
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_REPLICAS_DIFFER = 4
EXIT_STORAGE = 5
EXIT_HUNG = 6
EXIT_COMPARISON = 7
EXIT_SIGNAL = 128
"""Plus the number of the signal."""


class UserError(Exception):
    """A mistake in the configuration, the data or the environment. The message names it and says what to do."""

    exit_code = EXIT_USER_ERROR


class DivergedError(UserError):
    """Training produces no finite gradient any more."""

    exit_code = EXIT_DIVERGED


class ReplicasDifferError(UserError):
    """The ranks no longer hold the same weights or velocities."""

    exit_code = EXIT_REPLICAS_DIFFER


class StorageError(UserError):
    """A checkpoint cannot be written."""

    exit_code = EXIT_STORAGE


class HungError(UserError):
    """Another rank does not answer."""

    exit_code = EXIT_HUNG


class Stopped(UserError):
    """The run was asked to stop by a signal, and has saved its state.

    Args:
        step: the state that was saved.
        numbers: for each rank the signal that it got, or None.
    """

    def __init__(self, step: int, numbers: Sequence[int | None]):
        number = next(number for number in numbers if number is not None)
        super().__init__(f"{signal.Signals(number).name}: state {step} is saved; resume=auto goes on from there")
        self.exit_code = EXIT_SIGNAL + number


def describe_exit_codes() -> str:
    """Return the lines of the table at the head of this file."""
    table = (__doc__ or "").split("=\n")[2].rpartition("\n")[0]
    return "\n".join(f"  {line}" for line in table.replace("``", "").splitlines())


def near_matches(word: str, allowed: Iterable[str], limit: int = 3) -> str:
    """Return "did you mean a, b?" for the nearest of ``allowed``, or all of them when nothing is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(word, allowed, n=limit, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(sorted(allowed))}"
