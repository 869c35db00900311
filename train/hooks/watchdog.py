"""End a rank that waits for ever: for a rank that hangs, that was stopped, or whose machine is gone."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from train.errors import EXIT_HUNG, HungError
from train.hooks.base import Hook, RunState

FOLDER = "heartbeats"
LOOKS_PER_TIMEOUT = 8
SECONDS_BETWEEN_BEATS = 4.0
# What MindSpore's runtime says when a peer does not answer (on a CPU after MS_NODE_TIMEOUT, at once when its process is
# gone), when msrun's scheduler misses a rank, and when this rank misses the scheduler.
FAILED_MESSAGE = re.compile(
    r"Launch kernel failed.*(AllReduce|AllGather|Broadcast)|state of the cluster is error|connect to the meta server"
)


class Watchdog(Hook):
    """Ends this process with exit code 6 when the run makes no progress for ``timeout`` seconds (0: never).

    A thread looks, since the main thread is the one that may hang. It also writes what its rank is doing to
    ``heartbeats/rank-0``; a rank that waits in vain for another reads there which one it was.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._period = min(timeout / LOOKS_PER_TIMEOUT, SECONDS_BETWEEN_BEATS)
        self._ended = threading.Event()
        self._doing, self._since = "starting", time.monotonic()

    def on_train_begin(self, run: RunState) -> None:
        self._folder, self._rank, self._world_size = run.run_dir / FOLDER, run.rank, run.world_size
        self._say(f"waiting for the batch of update {run.step}")
        if self.timeout:
            self._folder.mkdir(exist_ok=True)
            self._beat()
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_train_step_begin(self, run: RunState) -> None:
        self._say(f"in update {run.step}")

    def on_train_step_end(self, run: RunState) -> None:
        self._say(f"after update {run.step}")

    def on_eval_begin(self, run: RunState) -> None:
        self._say(f"evaluating state {run.step}")

    def on_eval_end(self, run: RunState) -> None:
        self._say(f"after evaluating state {run.step}")

    def on_save(self, run: RunState) -> None:
        self._say(f"saving state {run.step}")

    def on_state_complete(self, run: RunState) -> None:
        self._say(f"waiting for the batch of update {run.step}")

    def on_train_end(self, run: RunState) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def explain_failed_messages(self) -> Iterator[None]:
        """Inside, a failed exchange between ranks becomes a :class:`HungError` that says what each rank was doing."""
        try:
            yield
        except RuntimeError as error:
            if not FAILED_MESSAGE.search(str(error)):
                raise
            raise HungError(f"other ranks did not answer {self._doing}: {self._describe_others()}") from None

    def _say(self, doing: str) -> None:
        self._doing, self._since = doing, time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            self._beat()
            if time.monotonic() - self._since > self.timeout:
                self._end()

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the watch
            self._file(self._rank).write_text(self._doing)

    def _end(self) -> None:
        others = self._describe_others()
        faulthandler.dump_traceback(file=2)
        os.write(
            2,
            f"error: rank {self._rank}: no progress for {self.timeout:g} s (watchdog.timeout) {self._doing}"
            f"{'; ' + others if others else ''}\n".encode(),
        )
        os._exit(EXIT_HUNG)

    def _describe_others(self) -> str:
        others = [self._describe(rank) for rank in range(self._world_size) if rank != self._rank]
        if others and all(other.endswith(f" was {self._doing}") for other in others):
            others.append("all are alive: one of them hangs there, or the network between them is down")
        return "; ".join(others)

    def _describe(self, rank: int) -> str:
        try:
            silent = time.time() - self._file(rank).stat().st_mtime
            doing = self._file(rank).read_text()
        except OSError:
            return f"rank {rank} cannot be read"
        gone = f", SILENT for {silent:.0f} s" if silent > 2.5 * self._period else ""
        return f"rank {rank} was {doing}{gone}"

    def _file(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}"
