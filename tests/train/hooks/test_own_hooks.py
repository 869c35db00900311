"""What a reader's hook may do: options, the run's parts, TensorBoard's pages, checkpoints, and the end of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from mindspore import Tensor
from mindspore.train import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import schedules
from tests.jobs import RECORDED, alone, msrun, train_task
from train.hooks import EarlyStopping, RunState
from train.hooks.callbacks import CallbackHook, make_hooks
from train.recipe.read import parse_config
from train.run.loop import flush
from train.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("on_cpu")

HOOK = """
import numpy as np
from mindspore import Tensor

from train.hooks import Hook


class Asks(Hook):
    def __init__(self, *, rank, at):
        self.rank, self.at = rank, at

    def on_train_begin(self, run):
        print("sees", run.config.data.global_batch, run.eval_loader.batch, type(run.network.model) is type(run.model))

    def on_train_step_end(self, run):
        run.scalars["my/numpy"] = np.float32(run.step)
        run.scalars["my/tensor"] = Tensor(2.5)
        if run.step == 1:
            run.log_image("my/image", np.full((4, 6, 3), 9, np.uint8))
            run.log_text("my/text", "**told**")
            run.log_histogram("my/histogram", run.model.fc.weight)
        if run.step == self.at and run.rank == self.rank:
            run.request_stop("enough is known")

    def on_saved(self, run, path):
        print("saved", path.name, sorted(one.name for one in path.iterdir())[:2])
"""


@pytest.mark.slow
@pytest.mark.msrun
def test_one_rank_ends_the_run_for_all(tmp_path: Path) -> None:
    (tmp_path / "my_hook.py").write_text(HOOK, encoding="utf-8")
    hook = "hooks=[{'my_hook:Asks': {rank: 1, at: 4}}]"
    others = ("log.layers=['fc.*']", "checkpoint.background=true", *RECORDED)
    done = msrun(2, train_task(tmp_path, "ended", hook, *others), tmp_path)
    done.check()
    points = [json.loads(line) for line in (tmp_path / "ended" / "metrics.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == list(range(8)), "told with update 5, whose result is read in update 6"
    assert "val/top1" in points[-1] and "train/loss" not in points[-1]
    assert [point["my/numpy"] for point in points[:-1]] == list(range(7)) and points[0]["my/tensor"] == 2.5
    assert points[3]["update/fc.weight/gradient_l2"] > 0 and "update/fc.bias/gradient_l2" in points[3]
    assert all("sees 128 120 True" in log for log in done.logs)
    assert "enough is known" in done.logs[0] and "every update is" in done.logs[0]
    assert "saved step-00000007 ['SHA256SUMS', " in done.logs[0] and "saved" not in done.logs[1]
    assert (tmp_path / "ended" / "checkpoints" / "best").resolve().name == "step-00000007"
    assert (tmp_path / "ended" / "comparison" / "comparison.md").is_file()
    events = EventAccumulator(str(tmp_path / "ended" / "tensorboard"), {"images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    assert [image.step for image in events.Images("my/image")] == [1]
    assert [found.step for found in events.Histograms("my/histogram")] == [1]
    assert [found.tensor_proto.string_val[0] for found in events.Tensors("my/text")] == [b"**told**"]


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
        (lambda: run_state().log_image("a/b", np.zeros((2, 2))), r"log_image\('a/b'\): uint8 .* not float64"),
    ],
)
def test_mistakes_are_one_line(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        make()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["high", None, np.zeros(2), {"a": 1}, Tensor(np.zeros(3, np.float32))])
def test_what_is_no_number_is_named_by_its_tag(value: Any) -> None:
    run = run_state()
    run.scalars["my/figure"] = value
    with pytest.raises(UserError, match=re.escape("hooks: scalars['my/figure'] is ")):
        flush([], run)


def test_a_callback_that_asks_for_the_end_gets_it() -> None:
    class Enough(Callback):
        def on_train_step_end(self, run_context: Any) -> None:
            run_context.request_stop()

    run = run_state()
    run.reported = cast(Any, SimpleNamespace(result=SimpleNamespace(loss=0.5)))
    hook = CallbackHook(Enough())
    hook.on_train_begin(run)
    hook.on_train_step_begin(run)
    hook.on_train_step_end(run)
    assert run.stop_reason == "Enough asked for it"


@pytest.mark.parametrize(
    ("hooks", "words"),
    [(["my_hook"], "'my_hook': .*module:Class"), ([{"a:B": {}, "c:D": {}}], "write one name with its options")],
)
def test_a_recipe_s_mistake_is_one_line(hooks: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^recipe: hooks=.*{words}"):
        parse_config("recipe", {"schedule": {}, "hooks": hooks})
