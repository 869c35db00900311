"""A run ends when its evaluations no longer improve, and an interruption does not make it wait anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

import schedules
from tests.jobs import alone, train_task
from train.hooks import RunState
from train.hooks.base import make_hooks
from train.hooks.early_stopping import EarlyStopping
from train.recipe.read import parse_config
from train.runtime.errors import UserError


@pytest.mark.slow
def test_early_stopping_ends_a_run_and_its_patience_survives_a_cut(tmp_path: Path) -> None:
    """With a learning rate of almost nothing no evaluation is better by 0.5 than the first."""
    stopping = "hooks=[{'train.hooks:EarlyStopping': {patience: 3, metric: loss, min_delta: 0.5}}]"
    settings = ["schedule.lr_max=1e-6", "schedule.lr_init=1e-6", "schedule.lr_end=0", "evaluate.every=2", stopping]
    whole = alone(train_task(tmp_path, "whole", *settings), tmp_path).check()
    assert "EarlyStopping: loss has not been better than" in whole.logs[0]
    state = json.loads((tmp_path / "whole" / "checkpoints" / "latest" / "state.json").read_text())
    assert state["step"] == 8 and state["hooks"]["EarlyStopping"]["waited"] == 3

    stopped = "checkpoint.every=5"
    alone(train_task(tmp_path, "cut", *settings, stopped), tmp_path).check()
    cut = tmp_path / "cut" / "checkpoints" / "step-00000005"
    state = json.loads((cut / "state.json").read_text())
    assert state["hooks"]["EarlyStopping"]["waited"] == 1
    resumed = alone(train_task(tmp_path, "resumed", *settings, f"resume={cut}"), tmp_path).check()
    assert "t = 8: validation" in resumed.logs[0] and "t = 10: validation" not in resumed.logs[0]


def run_state(**evaluate: Any) -> RunState:
    schedule = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 40})
    config = parse_config("recipe", {"schedule": {}, "evaluate": {"every": 2, **evaluate}})
    return RunState(Path(), *cast(Any, (None, None)), schedule, global_batch=4, steps_per_epoch=2, config=config)


@pytest.mark.parametrize(
    ("options", "values", "asks_after"),
    [
        ({}, [0.1, 0.2, 0.15, 0.2, 0.3], 4),
        ({}, [0.1, 0.2, 0.15, 0.25, 0.3], None),
        ({"best_is": "min"}, [0.1, 0.2, 0.15], 3),
        ({"min_delta": 0.2}, [0.1, 0.2, 0.25], 3),
        ({}, [float("nan"), float("nan")], 2),
    ],
)
def test_patience(options: dict[str, Any], values: list[float], asks_after: int | None) -> None:
    hook, run = EarlyStopping(patience=2, **options), run_state()
    hook.on_train_begin(run)
    asked = None
    for number, value in enumerate(values, 1):
        run.scalars = {"val/top1": value, "val/loss": 1.0}
        hook.on_eval_end(run)
        asked = asked or (number if run.stop_reason else None)
    assert asked == asks_after


@pytest.mark.parametrize(("best_is", "kept"), [("max", True), ("min", False), ("", True)])
@pytest.mark.parametrize("metric", ["top1", "loss"])
def test_what_is_restored_counts_for_the_same_figure_only(metric: str, best_is: Any, kept: bool) -> None:
    before = EarlyStopping(patience=3)
    before.on_train_begin(run_state())
    before.best, before.waited = 0.7, 2
    hook = EarlyStopping(patience=3, metric=metric, best_is=best_is)
    hook.restore(json.loads(json.dumps(before.state())))
    hook.on_train_begin(run_state())
    assert (hook.best, hook.waited) == ((0.7, 2) if kept and metric == "top1" else (None, 0))


def test_early_stopping_follows_the_metric_that_is_best() -> None:
    hook = EarlyStopping(patience=1)
    hook.on_train_begin(run_state(metrics=["loss"]))
    assert (hook.metric, hook.best_is) == ("loss", "min")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EarlyStopping(patience=0), r"hooks: EarlyStopping\(patience=0"),
        (lambda: EarlyStopping(patience=cast(Any, "3")), r"hooks: EarlyStopping\(patience='3'"),
        (lambda: EarlyStopping(patience=cast(Any, None)), r"hooks: EarlyStopping\(patience=None"),
        (lambda: EarlyStopping(1, min_delta=cast(Any, "a")), r"min_delta='a'\): patience is a whole number"),
        (lambda: EarlyStopping(1).on_train_begin(run_state(every=0)), "evaluate.every=0 makes one at the end only"),
        (lambda: EarlyStopping(1, metric="f1").on_eval_end(run_state()), "has no metric 'f1'"),
        (
            lambda: make_hooks([{"train.hooks:EarlyStopping": {"patients": 3}}]),
            "hooks=train.hooks:EarlyStopping.*pat",
        ),
    ],
)
def test_mistakes_are_one_line(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        make()
    assert "\n" not in str(raised.value)
