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

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.rundir.folder import HEARTBEATS, make_folder, of_rank
from train.runtime import distributed
from train.runtime.console import PATIENCE_SECONDS
from train.runtime.errors import EXIT_HUNG, HungError
from train.runtime.files import open_file

CHECKS_PER_TIMEOUT = 8
SECONDS_BETWEEN_BEATS = 4.0
# What says by itself that a peer is missing. Seen: MindSpore's runtime when one does not answer (on a CPU after
# MS_NODE_TIMEOUT, at once when its process is gone), when msrun's scheduler misses a rank, and when this rank misses
# the scheduler. Never seen by us, from CANN's documentation: HCCL waits in vain for a peer's notification (EI0002), for
# a connection to it (EI0006), and for all ranks to come together (EI0015). What else a device may say (507048 or 507011
# where a stream timed out, "HcclAllReduce failed") does not tell whose fault it is: there the heartbeats decide.
FAILED_MESSAGE = re.compile(
    r"Launch kernel failed.*(AllReduce|AllGather|Broadcast)|state of the cluster is error|connect to the meta server"
    r"|\bEI00(02|06|15)\b"
)


class Watchdog(Hook):
    """Ends this process with exit code 6 when the run makes no progress for ``timeout`` seconds (0: never).

    A thread checks, since the main thread is the one that may hang. From the first update on it also touches
    ``heartbeats/00/rank-0``; a rank that waits in vain for others sees there which of them gave no sign of life.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._period = min(timeout / CHECKS_PER_TIMEOUT, SECONDS_BETWEEN_BEATS)
        self._silent_after = 2.5 * self._period
        self._ended = threading.Event()
        self._own: Path | None = None
        self._note("before the first update")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the thread checks; a failed exchange between ranks becomes a :class:`HungError`.

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
                if self._own is None or distributed.world_size() == 1:
                    raise
                # As long as it takes to see who is silent; this rank, and one that fails as it does, go on beating.
                self._note(f"failing {doing}")
                time.sleep(self._silent_after)
                if not self._silent():
                    raise
                traceback.print_exc()
            slow = "; if it is only slow, raise MS_NODE_TIMEOUT: on a CPU an exchange waits so many seconds (30)"
            raise HungError(f"other ranks did not answer {doing}; {self._blame(slow)}") from None
        finally:
            self._ended.set()

    def on_train_begin(self, run: RunState) -> None:
        self._note(f"waiting for the batch of update {run.step}")
        if self.timeout:
            self._beats = run.run_dir / HEARTBEATS
            self._own = self._beats / of_rank(distributed.rank())
            make_folder(self._beats)
            make_folder(self._own.parent)
            self._own.unlink(missing_ok=True)
            self._own.touch(exist_ok=False)

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
        if self._own is not None:
            with contextlib.suppress(OSError):  # a disk that fails must not end the watch
                os.utime(self._own)

    def _end(self) -> None:
        # Also where the console takes nothing more, or the other ranks' heartbeats cannot be read.
        threading.Timer(PATIENCE_SECONDS * 3, os._exit, [EXIT_HUNG]).start()
        others = f"; {self._blame()}" if distributed.world_size() > 1 else ""
        faulthandler.dump_traceback(file=2)
        words = f"no progress for {self.timeout:g} s (watchdog.timeout) {self._doing}{others}"
        os.write(2, f"error: rank {distributed.rank()}: {words}\n".encode())
        os._exit(EXIT_HUNG)

    def _blame(self, otherwise: str = "") -> str:
        """Say which other ranks are silent, or what else may be and ``otherwise``."""
        if silent := self._silent():
            return "no sign of life of " + ", ".join(f"rank {rank} for {age:.0f} s" for rank, age in silent.items())
        return "one of them is gone or hangs, or the network between them is down" + otherwise

    def _silent(self) -> dict[int, float]:
        """Return the ranks without a sign of life, and for how many seconds: by the clock of the file system."""
        self._beat()
        found: dict[int, float] = {}
        for rank in range(distributed.world_size()):
            if self._own is not None:
                with contextlib.suppress(OSError):  # a node may have a run folder of its own
                    age = _touched(self._own) - _touched(self._beats / of_rank(rank))
                    found |= {rank: age} if age > self._silent_after else {}
        return found


def _touched(path: Path) -> float:
    with open_file(path) as file:  # opened: that brings what a network file system remembers up to date
        return os.fstat(file.fileno()).st_mtime
