"""Where a run's time goes besides its updates. A worker: the train command, with every call of a hook timed.

python -m tests.benchmarks.speed.shares --config RECIPE [key=value ...]
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence

from train.runtime import device

device.set_environment_defaults("cpu")

import train.run.job  # noqa: E402
import train.run.loop  # noqa: E402
from tests.benchmarks.speed.measure import report  # noqa: E402
from train.__main__ import main as train_main  # noqa: E402
from train.hooks.base import Hook  # noqa: E402
from train.hooks.runstate import RunState  # noqa: E402
from train.runtime import distributed  # noqa: E402


class Timed:
    """Stands in for :func:`train.run.loop.call`, and keeps the seconds of each hook and moment."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.updates: list[float] = []
        self.waiting: list[float] = []

    def __call__(self, hooks: Sequence[Hook], moment: str, run: RunState) -> None:
        if moment == "on_result" and run.step:
            self.updates.append(run.step_seconds)
            self.waiting.append(run.data_seconds)
        for hook in hooks:
            began = time.perf_counter()
            getattr(hook, moment)(run)
            self.seconds[f"{type(hook).__name__}.{moment}"].append(time.perf_counter() - began)


def main() -> int:
    timed, score = Timed(), train.run.job.Task.score
    train.run.loop.call = timed

    def timed_score(task: train.run.job.Task) -> dict[str, float]:
        began = time.perf_counter()
        figures = score(task)
        timed.seconds["evaluation"].append(time.perf_counter() - began)
        return figures

    train.run.job.Task.score = timed_score  # type: ignore[method-assign]
    code = train_main(sys.argv[1:])
    if distributed.rank() == 0:
        report({"updates": timed.updates, "waiting": timed.waiting, "calls": timed.seconds})
    return code


if __name__ == "__main__":
    sys.exit(main())
