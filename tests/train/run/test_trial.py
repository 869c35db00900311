"""A reader's model, loss, metric and optimizer are tried before the first update: one line for a broken contract."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from tests.jobs import Tool
from train.data.arrays import MemorySource
from train.data.source import Sources
from train.recipe.read import parse_config
from train.run.task import open_task
from train.run.trial import try_optimizer, try_parts
from train.runtime.errors import UserError
from train.step.optimizer import make_optimizer

dropout = Tool("train.step.dropout")

pytestmark = pytest.mark.usefixtures("on_cpu")


def open_sources(data: Any) -> Sources:
    rng = np.random.default_rng(0)
    source = MemorySource(rng.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3, num_classes=3)
    return Sources(source, source)


def open_two_inputs(data: Any) -> Sources:
    inputs = (np.zeros((12, 4), np.float32), np.ones((12, 4), np.float32))
    source = MemorySource(inputs, np.arange(12) % 3, num_classes=3)
    return Sources(source, source)


class Model(nn.Cell):
    def __init__(self, kind: str, classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.BatchNorm1d(4)
        self.fc, self.drop = nn.Dense(4, classes), dropout.Dropout(0.5)

    def construct(self, x):
        outputs = self.fc(self.norm(x))
        made = {
            "none": None,
            "mapping": {"a": outputs},
            "summed": outputs.sum(axis=0),
            "changes": (outputs, outputs) if self.training else outputs,
            "draws": outputs + ops.randn_like(outputs) if self.training else outputs,
            "drops": self.drop(outputs),
        }
        return made.get(self.kind, outputs)


def create(*, num_classes: int, in_channels: int, kind: str = "right", classes: int = 3) -> nn.Cell:
    return Model(kind, classes)


def without_classes(*, in_channels: int) -> nn.Cell:
    return Model("right", 3)


def no_cell(**sizes: int) -> int:
    return 3


def averaged(outputs, targets):
    return ops.cross_entropy(outputs, targets)


def kept_axis(outputs, targets):
    return ops.cross_entropy(outputs, targets, reduction="none").reshape(-1, 1)


def truth(outputs, targets):
    return outputs.argmax(axis=1) == targets


def unnamed(outputs, targets):
    return ops.cross_entropy(outputs, targets, reduction="none"), {"a": targets}


unnamed.figures = ("b",)  # type: ignore[attr-defined]


def over_nothing(outputs, targets):
    return ops.cross_entropy(outputs, targets, reduction="none")


over_nothing.mean_over = "weight"  # type: ignore[attr-defined]


class Fails:
    def sums(self, outputs, targets):
        return outputs[:, 7]

    def compute(self, sums):
        return 0.0


HERE = __name__


def config_of(**sections: Any) -> Any:
    tree = {"schedule": {}, "data": {"source": f"{HERE}:open_sources", "global_batch": 6}, **sections}
    tree.setdefault("model", {"name": f"{HERE}:create"})
    return parse_config("recipe", tree)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {"name": f"{HERE}:create", "options": {"width": 3}}},
            ":create: is called with .*width",
        ),
        ({"model": {"name": f"{HERE}:without_classes"}}, "without_classes: is called with .*'num_classes'"),
        (
            {"data": {"source": f"{HERE}:open_two_inputs", "global_batch": 6}},
            "create: its construct cannot take the data's inputs, which are 2: too many positional arguments",
        ),
        (
            {"model": {"name": "models.mine:create"}},
            "'models.mine'; models is a package of this program; give a folder",
        ),
        ({"model": {"name": f"{HERE}:no_cell"}}, "no_cell: returns a int; return a mindspore.nn.Cell"),
        ({"model": {"name": f"{HERE}:create", "options": {"kind": "none"}}}, "create: returns None; return a tensor"),
        ({"model": {"name": f"{HERE}:create", "options": {"kind": "mapping"}}}, "returns a dict; return a tensor"),
        ({"model": {"name": f"{HERE}:create", "options": {"kind": "summed"}}}, r"float32 \(3,\) for 2 examples"),
        ({"model": {"name": f"{HERE}:create", "options": {"kind": "changes"}}}, r"in training and float32 \(2, 3\) in"),
        ({"model": {"name": f"{HERE}:create", "options": {"classes": 2}}}, r"not the logits of 3 classes, \(2, 3\)"),
        (
            {"step": {"loss": f"{HERE}:averaged"}},
            r"one value for each example, .* returns float32 \(\)",
        ),
        ({"step": {"loss": f"{HERE}:kept_axis"}}, r"returns float32 \(2, 1\) for 2 examples"),
        ({"step": {"loss": f"{HERE}:truth"}}, r"returns bool \(2,\) for 2 examples"),
        ({"step": {"loss": f"{HERE}:over_nothing"}}, r"mean_over='weight' is not one of its figures, \[\]"),
        ({"step": {"loss": f"{HERE}:unnamed"}}, r"returns \(float32 \(2,\), a dict\), not \(loss, \{b: …\}\)"),
        ({"evaluate": {"metrics": ["loss", f"{HERE}:Fails"]}}, r"evaluate.metrics: Fails.sums\(\) failed: IndexError"),
    ],
)
def test_what_breaks_its_contract_is_one_line(sections: dict[str, Any], message: str) -> None:
    config = config_of(**sections)
    with pytest.raises(UserError, match=message) as raised:
        try_parts(config, open_task(config))
    assert "\n" not in str(raised.value)


def test_the_trial_leaves_no_trace() -> None:
    config = config_of()
    task = open_task(config)
    before = [parameter.asnumpy().copy() for parameter in task.model.get_parameters()]
    try_parts(config, task)
    for parameter, value in zip(task.model.get_parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
    assert task.model.training


@pytest.mark.parametrize(("kind", "told"), [("right", False), ("drops", False), ("draws", True)])
def test_what_a_model_draws_by_itself_is_told(kind: str, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(model={"name": f"{HERE}:create", "options": {"kind": kind}})
    try_parts(config, open_task(config))
    assert ("returns other outputs for the same inputs in training" in capsys.readouterr().out) == told


class Counts(nn.Optimizer):
    def __init__(self, params, learning_rate, by):
        super().__init__(learning_rate, params)
        self.by = by

    def construct(self, gradients):
        self.map_(ops.partial(_step, self.get_lr()), self._parameters, gradients)
        return ops.AssignAdd()(self.global_step, Tensor([self.by], ms.int32))


def _step(rate, weight, gradient):
    return ops.Assign()(weight, weight - rate * (gradient + 1.0))


def make(params, learning_rate, *, by: int) -> nn.Optimizer:
    return Counts(params, learning_rate, by)


@pytest.mark.parametrize("by", [0, 1, 2])
def test_an_optimizer_counts_each_update_once(by: int) -> None:
    model = nn.Dense(2, 2)
    model.update_parameters_name("m.")
    name = f"{HERE}:make"
    rates = np.full(5, 0.1, np.float32)
    decay = {"momentum": 0.9, "weight_decay": 0.0, "decay_norm_and_bias": False}
    optimizer = make_optimizer(model, rates, name=name, options={"by": by}, **decay)  # type: ignore[arg-type]
    before = model.weight.asnumpy().copy()
    if by == 1:
        try_optimizer(optimizer, name)
    else:
        with pytest.raises(UserError, match=f"counts its global_step to {by} in one update; end its construct with"):
            try_optimizer(optimizer, name)
    np.testing.assert_array_equal(model.weight.asnumpy(), before)
    assert isinstance(optimizer.global_step, Parameter) and optimizer.global_step.asnumpy() == [0]
