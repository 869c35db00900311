"""How often each kind of run is compiled: once for the update, once for its micro-batches, once for the evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from train.data.arrays import MemorySource
from train.data.example import map_leaves
from train.data.loader import EvalLoader, TrainLoader
from train.recipe.read import parse_config
from train.run.job import make_step
from train.run.task import make_eval_step
from train.step.evaluate import evaluate
from train.step.feeder import Feeder, Mixing
from train.step.network import Network

pytestmark = pytest.mark.usefixtures("on_cpu")

WIDTH = 5
RNG = np.random.default_rng(0)
X, SCALE = RNG.normal(size=(24, WIDTH)).astype(np.float32), RNG.normal(size=(24, 1)).astype(np.float32)
FIRST, SECOND = RNG.normal(size=(24, 2)).astype(np.float32), RNG.normal(size=24).astype(np.float32)
WEIGHT = RNG.normal(size=(WIDTH, 3)).astype(np.float32)


class Model(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(WEIGHT), name="weight")

    def construct(self, x, scale):
        outputs = ops.matmul(x, self.weight) * scale
        return outputs[:, :2], outputs[:, 2]


class OfOne(Model):
    def construct(self, x):
        outputs = ops.matmul(x, self.weight)
        return outputs[:, :2], outputs[:, 2]


def of_one(outputs, targets):
    return ops.square(outputs[0] - targets).mean(axis=1)


def of_tuple(outputs, targets):
    return ops.square(outputs[0] - targets[0]).mean(axis=1) + ops.square(outputs[1] - targets[1])


def of_names(outputs, targets):
    return ops.square(outputs[0] - targets["a"]).mean(axis=1) + ops.square(outputs[1] - targets["b"])


class Count:
    """Examples that a metric has seen with the right targets."""

    def sums(self, outputs, targets):
        given = targets["b"] if isinstance(targets, dict) else targets[1]
        return np.array([np.isin(given, SECOND).sum(), len(outputs[0])])

    def compute(self, sums):
        return float(sums[0])


INPUTS: dict[str, Any] = {"one": X, "tuple": (X, SCALE), "names": {"scale": SCALE, "x": X}}
TARGETS: dict[str, Any] = {"one": FIRST, "tuple": (FIRST, SECOND), "names": {"b": SECOND, "a": FIRST}}


def expected(inputs: str, targets: str) -> float:
    outputs = X.astype(np.float64) @ WEIGHT * (1 if inputs == "one" else SCALE)
    loss = np.square(outputs[:, :2] - FIRST).mean(axis=1)
    return float((loss if targets == "one" else loss + np.square(outputs[:, 2] - SECOND)).mean())


@pytest.mark.parametrize(
    ("inputs", "targets", "parts", "mixup"),
    [("one", "one", 1, 0), ("one", "tuple", 1, 0.3), ("one", "names", 2, 0.3), ("tuple", "tuple", 2, 0),
     ("names", "names", 1, 0), ("names", "one", 2, 0)],
)  # fmt: skip
def test_as_many_graphs_as_there_are_kinds_of_steps(inputs: str, targets: str, parts: int, mixup: float) -> None:
    source = MemorySource(INPUTS[inputs], TARGETS[targets], num_classes=3)
    metrics = ["loss"] if targets == "one" else ["loss", f"{__name__}:Count"]
    tree = {
        "schedule": {}, "data": {"global_batch": 12}, "step": {"loss": f"{__name__}:of_{targets}", "accumulate": parts},
        "evaluate": {"metrics": metrics}, "optimizer": {"name": "sgd", "weight_decay": 0.0},
    }  # fmt: skip
    config = parse_config("recipe", tree)
    names = list(INPUTS[inputs]) if inputs == "names" else []
    network = Network(OfOne() if inputs == "one" else Model(), (), (), names)
    eval_step = make_eval_step(config, network, 3)
    before = [evaluate(eval_step, EvalLoader(source, batch=5)) for _ in range(2)]
    assert before[0]["loss"] == pytest.approx(expected(inputs, targets), rel=1e-5)
    assert before[0]["examples"] == 24 and before[0].get("Count", 24) == 24
    step = make_step(config, network, np.full(9, 0.001, np.float32))
    update = Feeder(step, accumulate=parts, mixing=Mixing(mixup=mixup))
    loader = TrainLoader(source, global_batch=12, seed=1)
    losses = [update(batch, t).result.loss for t, batch in enumerate(loader.batches(0, 6))]
    assert evaluate(eval_step, EvalLoader(source, batch=5))["loss"] < before[0]["loss"] and len(losses) == 6
    assert len(step.compile_cache) == 1, "the update"
    assert len(eval_step.compile_cache) == 1, "the evaluation"
    assert parts == 1 or len(step.accumulate.compile_cache) == 1, "a micro-batch"


def test_names_reach_the_parameters_of_that_name() -> None:
    from train.runtime.errors import UserError

    assert Network(Model(), (), (), ["scale", "x"]).order == (1, 0)
    with pytest.raises(UserError, match=r"^model: its construct takes x, scale, and the data's inputs are x, mask$"):
        Network(Model(), (), (), ["x", "mask"])


def test_leaves_keep_their_form() -> None:
    assert map_leaves(lambda one: one + 1, {"a": 1, "b": 2}) == {"a": 2, "b": 3}
    assert map_leaves(lambda one: one + 1, (1, 2)) == (2, 3)
