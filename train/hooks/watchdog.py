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

from train import distributed
from train.errors import EXIT_HUNG, PATIENCE_SECONDS, HungError
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

    A thread looks, since the main thread is the one that may hang. From the first update on it also writes what its
    rank is doing to ``heartbeats/rank-0``; a rank that waits in vain for another reads there which one it was.
    """

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._period = min(timeout / LOOKS_PER_TIMEOUT, SECONDS_BETWEEN_BEATS)
        self._ended = threading.Event()
        self._folder: Path | None = None
        self._say("before the first update")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the thread looks; a failed exchange between ranks becomes a :class:`HungError` that says what each
        rank was doing."""
        if self.timeout:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        try:
            yield
        except RuntimeError as error:
            if not FAILED_MESSAGE.search(str(error)):
                raise
            raise HungError(f"other ranks did not answer {self._doing}: {self._describe_others()}") from None
        finally:
            self._ended.set()

    def on_train_begin(self, run: RunState) -> None:
        self._say(f"waiting for the batch of update {run.step}")
        if self.timeout:
            self._folder = run.run_dir / FOLDER
            self._folder.mkdir(exist_ok=True)
            self._beat()

    def on_train_step_begin(self, run: RunState) -> None:
        self._say(f"in update {run.step}")

    def on_train_step_end(self, run: RunState) -> None:
        self._say(f"after update {run.step}")

    def on_eval_begin(self, run: RunState) -> None:
        self._say(f"evaluating state {run.step}")

    def on_eval_step_begin(self, run: RunState) -> None:
        self._say(f"evaluating state {run.step}")

    def on_eval_end(self, run: RunState) -> None:
        self._say(f"after evaluating state {run.step}")

    def on_save(self, run: RunState) -> None:
        self._say(f"saving state {run.step}")

    def on_state_complete(self, run: RunState) -> None:
        self._say(f"waiting for the batch of update {run.step}")

    def on_train_end(self, run: RunState) -> None:
        self._say("at the end")

    def _say(self, doing: str) -> None:
        self._doing, self._since = doing, time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            self._beat()
            if time.monotonic() - self._since > self.timeout:
                self._end()

    def _beat(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):  # a full disk must not end the watch
                (self._folder / f"rank-{distributed.rank()}").write_text(self._doing)

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

    def _describe_others(self) -> str:
        others = [rank for rank in range(distributed.world_size()) if rank != distributed.rank()]
        if not others:
            return ""
        if self._folder is None:
            return "one of them is gone or hangs, or the network between them is down"
        found = [self._describe(rank, self._folder / f"rank-{rank}") for rank in others]
        if all(words.endswith(f" was {self._doing}") for words in found):
            found.append("all are alive: one of them hangs there, or the network between them is down")
        return "; ".join(found)

    def _describe(self, rank: int, heartbeat: Path) -> str:
        try:
            silent = time.time() - heartbeat.stat().st_mtime
            doing = heartbeat.read_text()
        except OSError:
            return f"rank {rank} cannot be read"
        gone = f", SILENT for {silent:.0f} s" if silent > 2.5 * self._period else ""
        return f"rank {rank} was {doing}{gone}"
