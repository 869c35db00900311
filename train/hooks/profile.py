"""Record where the time of some updates goes, with MindSpore's own profiler; in other updates nothing of it runs:
``profile: {steps: [20, 30]}`` in a recipe."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.rundir.folder import PROFILE, make_folder, replace_file
from train.runtime import distributed

KERNELS_RUN_IN = ("CPU OP", "Ascend Hardware")
"""What the profiler calls the processes of its trace in which kernels run."""
MOST_KERNELS = 10
SPEEDS = ("perf/", "ranks/step_ms/", "ranks/data_wait_ms/")


class Profile(Hook):
    """Write a trace of the updates ``first`` to ``last`` into ``profile/``, and say which kernels took longest.

    The weights are those of a run without it. Speeds of these updates are not logged, as the recording itself takes
    time.

    Args:
        steps: first and last.
        ranks: who records, see :func:`train.runtime.distributed.chosen_ranks`; the lowest of them also writes
            ``profile/profile.md``.

    Raises:
        UserError: for a rank that there is not.
    """

    def __init__(self, steps: Sequence[int], ranks: str | list[int] = "first"):
        self.first, self.last = steps
        chosen = distributed.chosen_ranks("profile.ranks", ranks)
        self.records = distributed.rank() in chosen
        self.tells = distributed.rank() == min(chosen)
        self._profiler: Any = None
        self._waited = 0.0
        self._table = ""

    def wants_state(self, run: RunState) -> bool:
        return run.step in (self.first, self.last + 1)  # the device is idle when the recording begins and when it ends

    def on_train_begin(self, run: RunState) -> None:
        self._start_if_due(run)

    def on_state_complete(self, run: RunState) -> None:
        self._start_if_due(run)

    def on_train_step_end(self, run: RunState) -> None:
        self._waited += run.data_seconds

    def on_result(self, run: RunState) -> None:
        if not self.first <= run.step <= self.last:
            return
        for tag in [tag for tag in run.scalars if tag.startswith(SPEEDS)]:
            del run.scalars[tag]
        if run.step == self.last:
            self._stop(run)

    def on_train_end(self, run: RunState) -> None:
        self._stop(run)  # where the run ends before the last of them
        if self._table:
            print(f"\n{self._table}", flush=True)

    def _start_if_due(self, run: RunState) -> None:
        if run.step != self.first or not self.records or run.ending is not None:
            return
        from mindspore import profiler

        folder = run.run_dir / PROFILE
        make_folder(folder)
        written = profiler.tensorboard_trace_handler(str(folder), f"rank-{run.rank}")
        activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU]
        self._profiler = profiler.profile(activities=activities, on_trace_ready=written)
        self._started, self._waited = time.perf_counter(), 0.0

    def _stop(self, run: RunState) -> None:
        if self._profiler is None:
            return
        seconds = time.perf_counter() - self._started
        self._profiler.stop()
        self._profiler = None
        if not self.tells:
            return
        folder = run.run_dir / PROFILE
        traces = folder.glob(f"rank-{run.rank}_*/**/trace_view.json")
        trace = max(traces, key=lambda path: path.stat().st_mtime, default=None)
        if trace is None:  # MindSpore's profiler raises nothing where it cannot write
            self._table = f"profile: MindSpore wrote no trace into {folder}; is there room?"
            return
        updates = run.step - self.first + (run.result is not None)
        self._table = table(json.loads(trace.read_bytes()), seconds, self._waited, updates)
        replace_file(folder / "profile.md", self._table.encode())
        run.log_text("run/profile", self._table)


def table(trace: Sequence[Mapping[str, Any]], seconds: float, waited: float, updates: int) -> str:
    """Return the largest kernels of ``trace``, a list of events as trace viewers read it, as Markdown.

    Args:
        seconds: wall time of the recording.
        waited: of it, the main thread's waiting for data.
    """
    processes = {event["pid"] for event in trace if event.get("args", {}).get("name") in KERNELS_RUN_IN}
    kernels = [event for event in trace if event["ph"] == "X" and event["pid"] in processes]
    times: dict[str, list[float]] = {}
    for event in kernels:
        kind = re.sub(r"-op\d+$", "", event["name"].rpartition("/")[2])
        times.setdefault(kind, []).append(float(event["dur"]) / 1e3)
    total = sum(map(sum, times.values()))
    busy = covered([(float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in kernels]) / 1e3
    whole = 1e3 * seconds
    rows = [
        f"{updates} updates in {whole:.1f} ms: {busy / whole:.0%} with a kernel running, {1 - busy / whole:.0%} "
        f"without one, in which the host worked; of the whole {1e3 * waited / whole:.0%} waiting for data",
        "",
        "| kernel | calls | ms | of all kernels |",
        "|---|--:|--:|--:|",
    ]
    for kind, own in sorted(times.items(), key=lambda item: -sum(item[1]))[:MOST_KERNELS]:
        rows.append(f"| {kind} | {len(own)} | {sum(own):.2f} | {sum(own) / total:.1%} |")
    return "\n".join(rows) + "\n"


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return how much of time lies in at least one of ``spans``, each from its start to its end."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
