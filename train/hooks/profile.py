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
from train.runtime.errors import UserError

KERNELS_RUN_IN = ("CPU OP", "Ascend Hardware")
"""What the profiler calls the processes of its trace in which kernels run."""
MOST_KERNELS = 10
SPEEDS = ("perf/", "ranks/step_ms/", "ranks/data_wait_ms/")


class Profile(Hook):
    """Write a trace of the updates ``first`` to ``last`` into ``profile/``, and say which kernels took longest.

    The weights are those of a run without it. Speeds of these updates are not logged, as the recording itself takes
    time. A run that is resumed between them records the rest of them. They are few, as the other ranks wait while
    MindSpore analyses them.

    Args:
        steps: first and last.
        ranks: who records, see :func:`train.runtime.distributed.chosen_ranks`; what is said is of the lowest of them.

    Raises:
        UserError: for a rank that there is not; when training begins, for a run folder that the profiler cannot take.
    """

    def __init__(self, steps: Sequence[int], ranks: str | list[int] = "first"):
        self.first, self.last = steps
        chosen = distributed.chosen_ranks("profile.ranks", ranks)
        self.records = distributed.rank() in chosen
        self.tells = distributed.rank() == min(chosen)
        self._recording = False
        """On this rank or others."""
        self._recorded = {"updates": 0, "evaluations": 0, "checkpoints": 0}
        self._waited = 0.0
        self._table = ""

    def wants_state(self, run: RunState) -> bool:
        return run.step in (self.first, self.last + 1)  # the device is idle when the recording begins and when it ends

    def on_train_begin(self, run: RunState) -> None:
        if self.records:
            from mindspore import profiler

            folder = run.run_dir / PROFILE
            make_folder(folder)
            self._written = profiler.tensorboard_trace_handler(str(folder.resolve()), f"rank-{run.rank}")
            if self._written is None:  # it has logged so, and would write into ./data
                raise UserError(
                    f"profile.steps: MindSpore's profiler cannot write into {folder.resolve()}: a path may hold "
                    "letters, digits and ./_-~ only; choose another runs_dir=…"
                )
        if run.step > self.last and run.rank == 0:
            steps = f"[{self.first}, {self.last}]"
            print(f"note: profile.steps={steps}: the run goes on at {run.step}, nothing is recorded", flush=True)

    def on_train_step_begin(self, run: RunState) -> None:
        if self._recording or not self.first <= run.step <= self.last:
            return
        self._recording = True
        if self.records:
            from mindspore import profiler

            activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU]
            self._profiler = profiler.profile(activities=activities, on_trace_ready=self._written)
        self._started = time.perf_counter()

    def on_train_step_end(self, run: RunState) -> None:
        self._waited += self._recording * run.data_seconds

    def on_result(self, run: RunState) -> None:
        if not self._recording:
            return
        for tag in [tag for tag in run.scalars if tag.startswith(SPEEDS)]:
            del run.scalars[tag]
        self._recorded["updates"] += 1
        if run.step == self.last:
            self._stop(run)

    def on_eval_begin(self, run: RunState) -> None:
        if run.ending is not None:  # before the last of them, and what this evaluation logs is the last that is logged
            self._stop(run)
        self._recorded["evaluations"] += self._recording

    def on_save(self, run: RunState) -> None:
        self._recorded["checkpoints"] += self._recording

    def on_train_end(self, run: RunState) -> None:
        self._stop(run)
        if self._table:
            print(f"\n{self._table}", flush=True)

    def _stop(self, run: RunState) -> None:
        """End the recording, and let rank 0 have what is to be said of it. Collective."""
        if not self._recording:
            return
        self._recording = False
        seconds = time.perf_counter() - self._started
        if self.records:
            self._profiler.stop()
        said = next(filter(None, distributed.gather_json(self._tell(run, seconds) if self.tells else "")))
        if run.rank == 0:
            self._table = said
            replace_file(run.run_dir / PROFILE / "profile.md", said.encode())
            run.log_text("run/profile", said)

    def _tell(self, run: RunState, seconds: float) -> str:
        folder = run.run_dir / PROFILE
        traces = folder.glob(f"rank-{run.rank}_*/**/trace_view.json")
        trace = max(traces, key=lambda path: path.stat().st_mtime, default=None)
        if trace is None:  # MindSpore's profiler raises nothing where it cannot write
            return f"profile: MindSpore wrote no trace into {folder}; is there room?"
        return table(json.loads(trace.read_bytes()), seconds, self._waited, self._recorded, run.config.log.language)


SENTENCES = {
    "en": "{recorded} in {whole:.1f} ms: {busy:.0%} with a kernel running, {idle:.0%} without one, in which the host "
    "worked; of the whole {waited:.0%} waiting for data",
    "zh": "{recorded}，共 {whole:.1f} ms：{busy:.0%} 的时间有内核在运行，其余 {idle:.0%} 是主机在工作；"
    "等待数据占总时间的 {waited:.0%}",
}
NAMES = {
    "en": {"updates": "{} updates", "evaluations": "{} evaluations", "checkpoints": "{} checkpoints"},
    "zh": {"updates": "{} 次更新", "evaluations": "{} 次评估", "checkpoints": "{} 个检查点"},
}
HEADS = {"en": "| kernel | calls | ms | of all kernels |", "zh": "| 内核 | 次数 | ms | 占全部内核 |"}


def table(
    trace: Sequence[Mapping[str, Any]], seconds: float, waited: float, recorded: Mapping[str, int], language: str
) -> str:
    """Return the largest kernels of ``trace``, a list of events as trace viewers read it, as Markdown.

    Args:
        seconds: wall time of the recording.
        waited: of it, the main thread's waiting for data.
        recorded: how many updates, evaluations and checkpoints are in it.
        language: "en" or "zh".
    """
    processes = {event["pid"] for event in trace if event.get("args", {}).get("name") in KERNELS_RUN_IN}
    kernels = [event for event in trace if event["ph"] == "X" and event["pid"] in processes]
    times: dict[str, list[float]] = {}
    for event in kernels:
        kind = re.sub(r"-op\d+$", "", event["name"].rpartition("/")[2])
        times.setdefault(kind, []).append(float(event["dur"]) / 1e3)
    total = sum(map(sum, times.values()))
    spans = [(float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in kernels]
    busy = covered(spans) / 1e6 / seconds
    words = [NAMES[language][what].format(count) for what, count in recorded.items() if count]
    sentence = SENTENCES[language].format(
        recorded=("、" if language == "zh" else ", ").join(words),
        whole=1e3 * seconds,
        busy=busy,
        idle=1 - busy,
        waited=waited / seconds,
    )
    rows = [sentence, "", HEADS[language], "|---|--:|--:|--:|"]
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
