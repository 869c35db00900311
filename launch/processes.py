"""The processes of a job as Linux sees them: whose children they are, how they end, and that none is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of linux/prctl.h
ENDED = re.compile(r"ended (\d+)\n")  # the name of a rank that leaves (train/runtime/ending.py)


def outlive_kill() -> None:
    """Go on in a child, in a session of its own; this process only passes stop signals on and ends as the child does.

    Nothing can be done in a process that is killed with SIGKILL, but its child is sent a SIGTERM then and stops the
    ranks as always. And if the child is killed so, this process, their next ancestor, kills them.
    """
    adopt_orphans()
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())  # one that comes too early waits until it can be passed on
    child = os.fork()
    if child == 0:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed before it could be noticed
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in stop_signals():
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    kill_children()
    os._exit(code if code >= 0 else 128 - code)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop; a hang-up does not where nohup(1) started it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    # SIGUSR1 and SIGUSR2: what schedulers send before the time of a job is over
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    return [*numbers, *([] if ignored else [signal.SIGHUP])]


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, as msrun does."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def prctl(option: int, value: int) -> None:
    """Change how Linux treats this process, prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def children() -> list[int]:
    """Return the process ids of this process's children, dead ones too, in the order in which they were started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        pid = int(path.parent.name)
        with contextlib.suppress(OSError):  # ended meanwhile
            fields = process_status(pid)
            parent, start_time = int(fields[1]), int(fields[19])
            if parent == os.getpid():
                found.append((start_time, pid))
    return [pid for _, pid in sorted(found)]


def process_status(pid: int) -> list[str]:
    """Return the fields of proc(5) from the third on, the state; the name before may hold spaces.

    Raises:
        OSError: when there is no such process.
    """
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def kill_children() -> None:
    """SIGKILL what is left; the children of a killed child become ours, so repeat until there is none."""
    while pids := children():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def said_end(pid: int) -> int | None:
    """Return the exit code that a process, dead or alive, gave itself as its name when it was done."""
    with contextlib.suppress(OSError):
        if said := ENDED.fullmatch(Path(f"/proc/{pid}/comm").read_text(errors="replace")):
            return int(said[1])
    return None


def next_end() -> tuple[int, int, bool] | None:
    """Return process id and exit code (-n: signal n) of a child that has ended, and whether it said so before.

    What it said is its exit code, whatever became of it afterwards.
    """
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    said = said_end(ended.si_pid)  # there until the next line
    code = os.waitstatus_to_exitcode(os.waitpid(ended.si_pid, 0)[1])
    return ended.si_pid, code if said is None else said, said is not None
