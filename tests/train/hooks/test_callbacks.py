"""MindSpore's callbacks as hooks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mindspore.train import Callback, LambdaCallback, RunContext

import schedules
from train.hooks import RunState
from train.hooks.base import make_hooks
from train.hooks.callbacks import CallbackHook
from train.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("on_cpu")

EVALUATION = ["on_eval_begin", "on_eval_step_begin", "on_eval_end"]


def train_with(hook: CallbackHook) -> None:
    """Go through the moments of 2 epochs of 2 updates each, with an evaluation after the first."""
    schedule = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 4})
    run = RunState(Path(), *cast(Any, (None, None)), schedule, global_batch=4, steps_per_epoch=2)
    run.reported = cast(Any, SimpleNamespace(result=SimpleNamespace(loss=0.5)))
    hook.on_train_begin(run)
    for run.step in range(4):
        hook.on_train_step_begin(run)
        hook.on_train_step_end(run)
        if run.step == 1:
            hook.on_eval_begin(run)
            hook.on_eval_step_begin(run)
            run.scalars["val/top1"] = 0.75
            hook.on_eval_end(run)
    hook.on_train_end(run)


def test_a_callback_hears_of_an_evaluation() -> None:
    seen: list[str] = []

    class Watching(Callback):
        def on_eval_begin(self, run_context: RunContext) -> None:
            seen.append("on_eval_begin")

        def on_eval_step_begin(self, run_context: RunContext) -> None:
            seen.append("on_eval_step_begin")

        def on_eval_end(self, run_context: RunContext) -> None:
            seen.append("on_eval_end")
            assert run_context.original_args()["metrics"] == {"val/top1": 0.75}

    train_with(CallbackHook(Watching()))
    train_with(CallbackHook(LambdaCallback(**{name: lambda _, name=name: seen.append(name) for name in EVALUATION})))
    assert seen == 2 * EVALUATION


def test_the_old_moments_are_those_of_training() -> None:
    """Callback's on_eval_begin calls begin, and so on: not in the middle of training."""
    seen: list[str] = []

    class Old(Callback):
        def begin(self, run_context: RunContext) -> None:
            seen.append("begin")

        def step_begin(self, run_context: RunContext) -> None:
            seen.append("step")

        def end(self, run_context: RunContext) -> None:
            seen.append("end")

    train_with(CallbackHook(Old()))
    assert seen == ["begin", *["step"] * 4, "end"]


def test_callbacks_of_the_framework(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the guide names."""
    for hook in make_hooks([f"mindspore.train:{name}" for name in ("LossMonitor", "TimeMonitor", "History")]):
        assert isinstance(hook, CallbackHook)
        train_with(hook)
    assert cast(Any, hook).callback.epoch == {"epoch": [1, 2]}
    assert cast(Any, hook).callback.history == {"net_output": [0.5, 0.5], "val/top1": [0.75]}
    out = capsys.readouterr().out
    assert out.count("loss is 0.5") == 4 and out.count("per step time") == 2


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (
            "mindspore.train:LearningRateScheduler",
            "missing a required argument: 'learning_rate_function'",
        ),
        ("mindspore.train:FlopsUtilizationCollector", "missing a required argument: 'data_size'"),
        ("math:pi", "is not a callable object"),
        ("builtins:list", "makes a list, neither a train.hooks.Hook nor a Callback"),
    ],
)
def test_what_makes_no_hook(reference: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^hooks={reference}: .*{words}"):
        make_hooks([reference])


def broken() -> Callback:
    raise TypeError("a bug")


def test_a_bug_in_making_a_hook_keeps_its_traceback() -> None:
    with pytest.raises(TypeError, match="a bug"):
        make_hooks(["tests.train.hooks.test_callbacks:broken"])


def test_a_callback_that_asks_for_the_end_gets_it() -> None:
    class Enough(Callback):
        def on_train_step_end(self, run_context: Any) -> None:
            run_context.request_stop()

    schedule = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 40})
    run = RunState(Path(), *cast(Any, (None, None)), schedule, global_batch=4, steps_per_epoch=2)
    run.reported = cast(Any, SimpleNamespace(result=SimpleNamespace(loss=0.5)))
    hook = CallbackHook(Enough())
    hook.on_train_begin(run)
    hook.on_train_step_begin(run)
    hook.on_train_step_end(run)
    assert run.stop_reason == "Enough asked for it"
