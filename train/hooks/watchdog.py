"""End a rank that waits for ever: for a rank that hangs, that was stopped, or whose machine is gone."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.rundir.folder import HEARTBEATS, make_folder, open_no_link
from train.runtime import distributed
from train.runtime.console import PATIENCE_SECONDS
from train.runtime.errors import EXIT_HUNG, HungError

CHECKS_PER_TIMEOUT = 8
SECONDS_BETWEEN_BEATS = 4.0
BEAT_BYTES = 80
"""Of a heartbeat's file, more than any of its words take."""
# What says by itself that a peer is missing. Seen: MindSpore's runtime when one does not answer (on a CPU after
# MS_NODE_TIMEOUT, at once when its process is gone), when msrun's scheduler misses a rank, and when this rank misses
# the scheduler. Never seen by us, from CANN's documentation: HCCL waits in vain for a peer's notification (EI0002), for
# a connection to it (EI0006), and for all ranks to come together (EI0015). What else a device may say (numbers such as
# 507048 and 507011 of a stream that timed out, "HcclAllReduce failed") does not tell whose fault it is: there the other
# ranks' heartbeats decide.
FAILED_MESSAGE = re.compile(
    r"Launch kernel failed.*(AllReduce|AllGather|Broadcast)|state of the cluster is error|connect to the meta server"
    r"|\bEI00(02|06|15)\b"
)


class Watchdog(Hook):
    """Ends this process with exit code 6 when the run makes no progress for ``timeout`` seconds (0: never).

    A thread checks, since the main thread is the one that may hang. From the first update on it also writes what its
    rank is doing to ``heartbeats/rank-0``; a rank that waits in vain for another reads there which one it was.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._period = min(timeout / CHECKS_PER_TIMEOUT, SECONDS_BETWEEN_BEATS)
        self._silent_after = 2.5 * self._period
        self._ended = threading.Event()
        self._folder: Path | None = None
        self._note("before the first update")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the thread checks; a failed exchange between ranks becomes a :class:`HungError` that says what each
        rank was doing.

        That it was one, an error of the runtime says in known words; or another rank gives no sign of life behind it.
        In the second case it may still be a fault of this rank, so that its traceback is printed too.
        """
        if self.timeout:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        try:
            yield
        except RuntimeError as error:
            doing = self._doing
            if not FAILED_MESSAGE.search(str(error)):
                self._note(f"failing {doing}")
                if not self._others_fall_silent():
                    raise
                traceback.print_exc()
            raise HungError(f"other ranks did not answer {doing}: {self._describe_others()}") from None
        finally:
            self._ended.set()

    def on_train_begin(self, run: RunState) -> None:
        self._note(f"waiting for the batch of update {run.step}")
        if self.timeout:
            self._folder = run.run_dir / HEARTBEATS
            make_folder(self._folder)
            self._beat()

    def on_train_step_begin(self, run: RunState) -> None:
        self._note(f"in update {run.step}")

    def on_train_step_end(self, run: RunState) -> None:
        self._note(f"after update {run.step}")

    def on_eval_begin(self, run: RunState) -> None:
        self._note(f"evaluating state {run.step}")

    def on_eval_step_begin(self, run: RunState) -> None:
        self._note(f"evaluating state {run.step}")

    def on_eval_end(self, run: RunState) -> None:
        self._note(f"after evaluating state {run.step}")

    def on_save(self, run: RunState) -> None:
        self._note(f"saving state {run.step}")

    def on_state_complete(self, run: RunState) -> None:
        self._note(f"waiting for the batch of update {run.step}")

    def on_train_end(self, run: RunState) -> None:
        self._note("at the end")

    def _note(self, doing: str) -> None:
        self._doing, self._since = doing, time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            self._beat()
            if time.monotonic() - self._since > self.timeout:
                self._end()

    def _beat(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):  # a full disk must not end the watch
                file = open_no_link(str(self._folder / f"rank-{distributed.rank()}"), os.O_WRONLY | os.O_CREAT)
                try:
                    # In one go and over all that stood there: a process may end, or another rank read, at any moment.
                    os.pwrite(file, self._doing.encode().ljust(BEAT_BYTES), 0)
                finally:
                    os.close(file)

    def _end(self) -> None:
        # Also where the console takes nothing more, or the other ranks' heartbeats cannot be read.
        threading.Timer(PATIENCE_SECONDS * 3, os._exit, [EXIT_HUNG]).start()
        others = self._describe_others()
        faulthandler.dump_traceback(file=2)
        os.write(
            2,
            f"error: rank {distributed.rank()}: no progress for {self.timeout:g} s (watchdog.timeout) {self._doing}"
            f"{'; ' + others if others else ''}\n".encode(),
        )
        os._exit(EXIT_HUNG)

    def _others_fall_silent(self) -> bool:
        """Wait until each other rank has given a new sign of life; return whether one did not.

        One that fails as this rank does counts as alive: a fault in the program shows on all of them at once.
        """
        self._beat()
        waiting = {} if self._folder is None else {path: _read_beat(path) for path in self._beats_of_others().values()}
        until = time.monotonic() + self._silent_after
        while waiting and time.monotonic() < until:
            time.sleep(self._period / 4)
            for path, before in list(waiting.items()):
                now = _read_beat(path)
                if now and (now.doing == self._doing or before is None or now.written > before.written):
                    del waiting[path]
        return bool(waiting)

    def _describe_others(self) -> str:
        if distributed.world_size() == 1:
            return ""
        if self._folder is None:
            return "one of them is gone or hangs, or the network between them is down"
        beats = {rank: _read_beat(path) for rank, path in self._beats_of_others().items()}
        words = [self._describe(rank, beat) for rank, beat in beats.items()]
        if all(beat and beat.doing == self._doing and beat.age <= self._silent_after for beat in beats.values()):
            words.append("all are alive: one of them hangs there, or the network between them is down")
        return "; ".join(words)

    def _beats_of_others(self) -> dict[int, Path]:
        assert self._folder is not None
        others = [rank for rank in range(distributed.world_size()) if rank != distributed.rank()]
        return {rank: self._folder / f"rank-{rank}" for rank in others}

    def _describe(self, rank: int, beat: Beat | None) -> str:
        if beat is None:
            return f"rank {rank} cannot be read"
        gone = f", SILENT for {beat.age:.0f} s" if beat.age > self._silent_after else ""
        return f"rank {rank} was {beat.doing}{gone}"


class Beat(NamedTuple):
    """What a rank wrote last, when by the clock of the file system, and how many seconds ago."""

    doing: str
    written: float
    age: float


def _read_beat(path: Path) -> Beat | None:
    try:
        doing = path.read_text().rstrip()  # first: to open it brings what a network file system remembers up to date
        written = path.stat().st_mtime
        return Beat(doing, written, time.time() - written)
    except OSError:
        return None
