"""The loop by itself: which moments its hooks see, and that the watchdog knows them as progress."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import models
import schedules
from train.data.arrays import MemorySource
from train.data.loader import EvalLoader, TrainLoader
from train.hooks import Hook, RunState
from train.run.loop import train
from train.step.evaluate import EvalStep, EvaluationStopped, evaluate
from train.step.network import Network
from train.step.optimizer import make_optimizer

pytestmark = pytest.mark.usefixtures("on_cpu")

LONG_EVALUATION = """
import time
from types import SimpleNamespace

from train.hooks.watchdog import Watchdog

watchdog, run = Watchdog(timeout=4), SimpleNamespace(step=7)
with watchdog.watching():
    watchdog.on_eval_begin(run)
    for _ in range(12):
        watchdog.on_eval_step_begin(run)
        time.sleep(0.5)
"""


def test_hooks_see_each_batch_of_an_evaluation(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (12, 1, 8, 8), np.uint8)
    source = MemorySource(images, np.arange(12, dtype=np.int32) % 10, num_classes=10)
    model = models.create_model("resnet20", num_classes=10, in_channels=1, depths=[1, 1, 1])
    schedule = schedules.build(
        {"kind": "linear", "lr_init": 0.1, "lr_max": 0.1, "lr_end": 0.0, "warmup": 0, "total": 2}
    )
    optimizer = make_optimizer(model, schedule.lr, momentum=0.9, weight_decay=0.0, decay_norm_and_bias=False)
    run = RunState(tmp_path, model, optimizer, schedule, global_batch=4, steps_per_epoch=3)
    run.step, run.evaluation_pending = schedule.total_steps, True
    step = EvalStep(Network(model, source.mean, source.std), 10)
    seen: list[str] = []

    class Recorder(Hook):
        def __getattribute__(self, name: str) -> object:
            if name.startswith("on_"):
                seen.append(name)
            return super().__getattribute__(name)

    def no_update(*_: object) -> None:
        raise AssertionError("the schedule has ended")

    def evaluation(before_batch: Callable[[], None], asked_to_stop: Callable[[], bool]) -> dict[str, float]:
        return evaluate(step, EvalLoader(source, batch=5), before_batch, asked_to_stop)

    train(run, no_update, TrainLoader(source, global_batch=4, seed=1), evaluation, [Recorder()])
    end = ["on_eval_end", "on_scalars", "on_state_complete", "on_train_end"]
    assert seen == ["on_train_begin", "on_eval_begin", *["on_eval_step_begin"] * 3, *end]


def test_an_evaluation_asks_now_and_then_whether_to_stop() -> None:
    """Before the first batch, and every ten: a request in between is seen at the next question."""
    images = np.random.default_rng(1).integers(0, 256, (12, 1, 8, 8), np.uint8)
    source = MemorySource(images, np.zeros(12, np.int32), num_classes=10)
    model = models.create_model("resnet20", num_classes=10, in_channels=1, depths=[1, 1, 1])
    step = EvalStep(Network(model, source.mean, source.std), 10)
    begun: list[int] = []
    asked: list[int] = []

    def ask_after(batches: int) -> list[int]:
        def asked_to_stop() -> bool:
            asked.append(len(begun))
            return len(begun) >= batches

        begun.clear()
        asked.clear()
        with contextlib.suppress(EvaluationStopped):
            evaluate(step, EvalLoader(source, batch=1), lambda: begun.append(1), asked_to_stop)
        return asked

    assert ask_after(1) == [1] and len(begun) == 1
    assert ask_after(3) == [1, 11] and len(begun) == 11
    assert ask_after(99) == [1, 11] and len(begun) == 12


def test_an_evaluation_may_last_longer_than_the_watchdog_waits() -> None:
    done = subprocess.run([sys.executable, "-c", LONG_EVALUATION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
