"""Run one msrun job and stay with it to the end: exit codes, signals, rank 0's lines, no process left behind.

Without ``--join=True`` msrun starts the scheduler and the ranks and leaves. This process has declared itself their
"child subreaper" (Linux, prctl(2)) and so becomes their parent: it learns of every death at once, with its exit code,
and can stop the ranks gently. It runs under another one, :func:`outlive_kill`, so that ``kill -9`` of either leaves no
rank behind. With ``--join=True`` msrun itself would wait, but it hides the ranks' exit codes, waits
for the scheduler's time-out after a failure, exits with 0 on Ctrl-C and leaves the ranks behind on SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from console import STDERR, STDOUT, say, show

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_HUNG = 6  # of train
STOP_SECONDS = 100.0  # for the ranks to finish an update and save it, when they are asked to stop
FAILURE_SECONDS = 3.0  # for the other ranks to end after one has failed: most hang in an exchange with it
POLL_SECONDS = 0.1
FROZEN_SECONDS = (
    8.0  # the ranks go without msrun's scheduler for 10 to 30 s (MS_NODE_TIMEOUT), then crash in its client
)
SAME_REQUEST_SECONDS = 1.0  # a closed terminal hangs up twice within a millisecond: its shell, and the kernel
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of linux/prctl.h
TAIL_LINES = 20

FRAMEWORK_NOISE = re.compile(r"\[(DEBUG|INFO|WARNING)\] \w+\(\d+")  # [INFO] DISTRIBUTED(4906,7ff56499b6c0,python): …
ERROR = "error: "  # begins a line in which the program says all there is to say about its end
OWN_RANK = re.compile(r"\brank \d+: ")


class StopRequest:
    """Remembers the first stop signal sent to this process, and whether there was a second one, not just after it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.insisted = False
        self._first = 0.0
        for number in stop_signals():
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self._first, self.signal = time.monotonic(), signal.Signals(number)
        elif time.monotonic() - self._first > SAME_REQUEST_SECONDS:
            self.insisted = True


class Console:
    """Shows the lines of a growing log on stdout, without those of the framework."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_shown: deque[str] = deque(maxlen=TAIL_LINES)
        self.muted = False
        self._position = 0
        self._rest = ""

    def catch_up(self, *, final: bool = False) -> None:
        if self.muted or not self.path.exists():
            return
        with self.path.open("rb") as log:
            log.seek(self._position)
            new = log.read()
        # Only whole lines, so that neither a line nor a character is cut in two.
        new = new if final else new[: new.rfind(b"\n") + 1]
        self._position += len(new)
        for line in new.decode(errors="replace").splitlines():
            if not FRAMEWORK_NOISE.match(line):
                show(line, STDERR if line.startswith(ERROR) else STDOUT)
                self.last_shown.append(OWN_RANK.sub("", line))


class Supervisor:
    """The processes of one job on this node: the ranks and, on the first node, msrun's scheduler.

    Args:
        log_dir: where msrun is told to write the logs.
        ranks: the numbers of the ranks on this node.
        stop: tells that this process was asked to stop.
        scheduler: whether msrun starts its scheduler here.
        ranks_elsewhere: whether other nodes have ranks too; the scheduler then runs until they have ended.
    """

    def __init__(
        self, log_dir: Path, ranks: Sequence[int], stop: StopRequest, *, scheduler: bool, ranks_elsewhere: bool = False
    ) -> None:
        self.log_dir = log_dir
        self.ranks = ranks
        self.scheduler = scheduler
        self.ranks_elsewhere = ranks_elsewhere
        self.stop = stop
        self.console = Console(log_dir / f"worker_{ranks[0]}.log")
        self.names: dict[int, str] = {}
        self._scheduler_ran = time.monotonic()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start the job with ``command`` (msrun) and return its exit code; on return, none of its processes is left.

        The exit code is 0 if all ranks ended with 0, that of the first process that failed (128 + n if signal n killed
        it), or 128 + n if signal n stopped this process.
        """
        adopt_orphans()
        try:
            code = self._start(command, environment) or self._wait()
            self.console.catch_up(final=True)
            return 128 + self.stop.signal if self.stop.signal else code
        finally:
            kill_children()

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        with (self.log_dir / "msrun.log").open("wb") as log:
            msrun = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C comes to this process alone, which passes it on
            )
            while msrun.poll() is None and not self.stop.signal:
                time.sleep(POLL_SECONDS)
        if self.stop.signal:
            return EXIT_FAILURE
        if msrun.returncode != 0:
            self._tell_failure("msrun", msrun.returncode)
            return EXIT_FAILURE
        names = [*(["scheduler"] if self.scheduler else []), *(f"rank {rank}" for rank in self.ranks)]
        started = children()
        if len(started) < len(names):
            # One ended while it was msrun's child and took its exit code along. Only that one had time to say anything.
            self._tell_failure(next((name for name in names if quiet_lines(self._log(name))), names[0]), None)
            return EXIT_FAILURE
        self.names = dict(zip(started, names, strict=False))  # more: what a rank has started and left already
        return 0

    def _wait(self) -> int:
        while self._ranks_alive() or (self.ranks_elsewhere and self.names):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self.names:
                name = self.names.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                if code != 0 and not self.stop.signal:
                    self.console.catch_up()
                    self._tell_failure(name, code)
                    self.console.muted = True  # what rank 0 adds now follows from this, or repeats it
                    self._stop_ranks(FAILURE_SECONDS)
                    return code if code > 0 else 128 - code
            elif self.stop.signal:
                say(f"{self.stop.signal.name}: stopping {len(self.ranks)} ranks")
                self._stop_ranks(STOP_SECONDS)
                return EXIT_FAILURE
            elif scheduler := self._frozen_scheduler():
                say(f"msrun's scheduler was stopped for {FROZEN_SECONDS:g} s: stopping {len(self.ranks)} ranks")
                os.kill(scheduler, signal.SIGCONT)  # the ranks end by saying goodbye to it
                self._stop_ranks(STOP_SECONDS)
                show(f"error: scheduler: stopped (SIGSTOP) for {FROZEN_SECONDS:g} s; the ranks cannot train without it")
                return EXIT_HUNG
            else:
                self.console.catch_up()
                time.sleep(POLL_SECONDS)
        return 0

    def _frozen_scheduler(self) -> int | None:
        """Return the scheduler's process id once it has been stopped for too long."""
        for pid, name in self.names.items():
            if name == "scheduler" and process_status(pid)[0] in "tT":
                return pid if time.monotonic() - self._scheduler_ran > FROZEN_SECONDS else None
        self._scheduler_ran = time.monotonic()
        return None

    def _ranks_alive(self) -> list[int]:
        return [pid for pid, name in self.names.items() if name != "scheduler"]

    def _stop_ranks(self, seconds: float) -> None:
        """Ask the ranks to stop and wait for them, at most ``seconds`` and until a (second) stop signal.

        They are asked with SIGTERM even if Ctrl-C was pressed: MindSpore's own handler swallows SIGINT.
        """
        for pid in self._ranks_alive():
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        asked_before = self.stop.signal
        while self._ranks_alive() and time.monotonic() < deadline:
            if self.stop.insisted or self.stop.signal is not asked_before:
                return
            pid, _ = os.waitpid(-1, os.WNOHANG)
            self.names.pop(pid, None)
            if pid == 0:
                self.console.catch_up()
                time.sleep(POLL_SECONDS)

    def _tell_failure(self, name: str, code: int | None) -> None:
        log = self._log(name)
        lines = quiet_lines(log)
        if lines and (code == EXIT_USER_ERROR or lines[-1].startswith(ERROR)):
            if OWN_RANK.sub("", lines[-1]) not in self.console.last_shown:
                show(lines[-1])
            return
        if code is None:
            cause = "at once"
        else:
            cause = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        if log == self.console.path and self.console.last_shown:
            say(f"{name} failed ({cause}); its last lines stand above, all of them in {log}")
        else:
            say(f"{name} failed ({cause}); the last lines of {log}:")
            show("\n".join(lines[-TAIL_LINES:] or ["(nothing)"]))

    def _log(self, name: str) -> Path:
        return self.log_dir / f"{name.replace('rank ', 'worker_')}.log"


def quiet_lines(log: Path) -> list[str]:
    """Return the lines of ``log`` that are neither empty nor the framework's."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip() and not FRAMEWORK_NOISE.match(line)]


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
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


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
