"""What a reader's hook may do: options, the run's parts, TensorBoard's pages, checkpoints, and the end of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from mindspore import Tensor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import schedules
from tests.jobs import RECORDED, msrun, train_task
from train.hooks import RunState
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


def run_state(**evaluate: Any) -> RunState:
    schedule = schedules.build({"kind": "constant", "lr_max": 0.1, "total": 40})
    config = parse_config("recipe", {"schedule": {}, "evaluate": {"every": 2, **evaluate}})
    return RunState(Path(), *cast(Any, (None, None)), schedule, global_batch=4, steps_per_epoch=2, config=config)


@pytest.mark.parametrize(
    ("make", "words"),
    [
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


@pytest.mark.parametrize(
    ("hooks", "words"),
    [(["my_hook"], "'my_hook': .*module:Class"), ([{"a:B": {}, "c:D": {}}], "write one name with its options")],
)
def test_a_recipe_s_mistake_is_one_line(hooks: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^recipe: hooks=.*{words}"):
        parse_config("recipe", {"schedule": {}, "hooks": hooks})
