"""Run one msrun job and stay with it to the end: exit codes, signals, rank 0's lines, no process left behind.

Without ``--join=True`` msrun starts the scheduler and the ranks and leaves. This process has declared itself their
"child subreaper" (Linux, prctl(2)) and so becomes their parent: it learns of every death at once, with its exit code,
and can stop the ranks gently. It runs under another one, :func:`outlive_kill`, so that ``kill -9`` of either leaves no
rank behind. With ``--join=True`` msrun itself would wait, but it hides the ranks' exit codes, waits
for the scheduler's time-out after a failure, exits with 0 on Ctrl-C and leaves the ranks behind on SIGTERM.
"""

from __future__ import annotations

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
from processes import adopt_orphans, children, kill_children, next_end, process_status, said_end, stop_signals

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_STORAGE = 5  # of train, as the two before and after it
EXIT_HUNG = 6
ONE_LINE_CODES = range(EXIT_USER_ERROR, 8)  # of train: the program has said why in one line
STOP_SECONDS = 100.0  # for the ranks to finish an update and save it, when they are asked to stop
FAILURE_SECONDS = 3.0  # for the other ranks to end after one has failed: most hang in an exchange with it
POLL_SECONDS = 0.1
FROZEN_SECONDS = (
    8.0  # the ranks go without msrun's scheduler for 10 to 30 s (MS_NODE_TIMEOUT), then crash in its client
)
SAME_REQUEST_SECONDS = 1.0  # a closed terminal hangs up twice within a millisecond: its shell, and the kernel
TAIL_LINES = 20
ROOM = 1 << 14  # bytes on the disk for the first words of all processes

FRAMEWORK_NOISE = re.compile(r"\[(DEBUG|INFO|WARNING)\] \w+\(\d+")  # [INFO] DISTRIBUTED(4906,7ff56499b6c0,python): …
ERROR = "error: "  # begins a line in which the program says all there is to say about its end
OWN_RANK = re.compile(r"\brank \d+: ")
CAUSES = {
    EXIT_STORAGE: "exit code 5: a disk is full or has failed",
    -signal.SIGKILL: "killed by SIGKILL, as Linux does where memory is short",
    None: "at once",
}


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
        self._unreadable = False
        self._position = 0
        self._rest = ""

    def catch_up(self, *, final: bool = False) -> None:
        if self.muted:
            return
        try:
            with self.path.open("rb") as log:
                log.seek(self._position)
                new = log.read()
        except FileNotFoundError:  # nothing was said so far
            return
        except OSError as error:
            if not self._unreadable:
                say(f"{self.path} cannot be read: {error.strerror}; the job goes on unseen")
            self._unreadable = True
            return
        self._unreadable = False
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
            try:
                os.posix_fallocate(log.fileno(), 0, ROOM)
                log.truncate(0)
            except OSError as error:  # msrun would fail without a word: it has nowhere to write it
                raise OSError(error.errno, error.strerror, log.name) from None
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
            if ended := next_end():
                code = self._judge(*ended)
                if code and not self.stop.signal:
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

    def _judge(self, pid: int, code: int, said: bool) -> int:
        """Return 0 if the job may go on without the process ``pid``, which has ended; else tell why it cannot."""
        name = self.names.pop(pid, None)  # none: what a rank had started and left
        if name is None or self.stop.signal or (code == 0 and (said or name == "scheduler")):
            return 0
        if name == "scheduler" and None not in map(said_end, self._ranks_alive()):
            return 0  # all ranks here are done with it
        self.console.catch_up()
        if code == 0:
            code = EXIT_FAILURE
            say(f"{name} left the job with exit code 0 before its end: something in it called os._exit or C's exit")
        else:
            self._tell_failure(name, code)
        self.console.muted = True  # what rank 0 adds now follows from this, or repeats it
        return code

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
            if ended := next_end():
                self.names.pop(ended[0], None)
            else:
                self.console.catch_up()
                time.sleep(POLL_SECONDS)

    def _tell_failure(self, name: str, code: int | None) -> None:
        log = self._log(name)
        lines = quiet_lines(log)
        said = next((line for line in reversed(lines) if line.startswith(ERROR)), None)
        if lines and (code == EXIT_USER_ERROR or (said and (code in ONE_LINE_CODES or said is lines[-1]))):
            reason = said or lines[-1]
            if OWN_RANK.sub("", reason) not in self.console.last_shown:
                show(reason)
            return
        cause = CAUSES.get(code)
        if code and not cause:
            cause = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        if log == self.console.path and self.console.last_shown:
            say(f"{name} failed ({cause}); its last lines are above, all of them in {log}")
        else:
            say(f"{name} failed ({cause}); the last lines of {log}:")
            show("\n".join(lines[-TAIL_LINES:] or ["(nothing)"]))

    def _log(self, name: str) -> Path:
        return self.log_dir / f"{name.replace('rank ', 'worker_')}.log"


def quiet_lines(log: Path) -> list[str]:
    """Return the lines of ``log`` that are neither empty nor the framework's; none where it cannot be read."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip() and not FRAMEWORK_NOISE.match(line)]
