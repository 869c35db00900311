"""Seconds from the command to the first update, in parts. A worker: the train command, with a clock in it.

python -m tests.benchmarks.speed.startup --config RECIPE [key=value ...]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.speed.measure import STARTED, report
from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.runtime import device, distributed

HOOK = "hooks=[tests.benchmarks.speed.startup:FirstUpdate]"
_moments: list[tuple[str, float]] = []
"""What had been reached, and when."""


def reached(what: str) -> None:
    _moments.append((what, time.time()))


def then(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        reached(what)
        return result

    return wrapped


class FirstUpdate(Hook):
    """Note when all is built and when the first update is done."""

    def on_train_begin(self, run: RunState) -> None:
        clock().reached("data, model, weights, run folder")

    def on_train_step_end(self, run: RunState) -> None:
        if run.step == 0 and run.rank == 0:
            clock().reached("compiling, and the first update")
            report(clock().parts())


def clock() -> Any:
    """Return this module as the command runs it; the hook's own import of it is a second one."""
    return sys.modules["__main__"]


def parts() -> dict[str, float]:
    """Return the seconds of each part, in order."""
    before = float(os.environ[STARTED])
    found = {}
    for what, moment in _moments:
        found[what], before = moment - before, moment
    return found


def main() -> int:
    reached("msrun, Python")
    device.set_environment_defaults("cpu")
    import mindspore  # noqa: F401

    reached("import mindspore")
    from train.__main__ import main as train_main

    reached("the other imports")
    distributed.init = then(distributed.init, "building the cluster")
    return train_main([*sys.argv[1:], HOOK])


if __name__ == "__main__":
    sys.exit(main())
