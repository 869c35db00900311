"""Each optimizer against a plain NumPy reference, groups of parameters, and frozen ones."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from train.checkpoint.state import State, capture, misfits, restore
from train.recipe.read import parse_config
from train.recipe.sections import RunConfig
from train.run.job import make_step
from train.runtime.errors import UserError
from train.step.network import Network
from train.step.optimizer import (
    decays_beforehand,
    freeze,
    group_rates,
    learning_rates,
    make_optimizer,
    velocities,
)
from train.step.options import OPTIMIZERS, OptimizerOptions
from train.step.reduction import Buckets
from train.step.report import StepResult
from train.step.update_rules import Momentum

pytestmark = pytest.mark.usefixtures("on_cpu")

T = 5
LR = np.linspace(0.1, 0.02, T).astype(np.float32)
DECAY = 0.1
GO_ON = Tensor(np.zeros(1, np.float32))


class Weights(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        self.weight = Parameter(Tensor(rng.normal(size=(4, 3)).astype(np.float32)), name="weight")
        self.bias = Parameter(Tensor(rng.normal(size=3).astype(np.float32)), name="bias")


class Runs(nn.Cell):
    def __init__(self, optimizer: nn.Optimizer) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *gradients):
        return self.optimizer(gradients)


def train(**keys: Any) -> tuple[Weights, nn.Optimizer, list[dict[str, np.ndarray]]]:
    """Make T updates with drawn gradients; return the gradients too, by name, so that they may be followed."""
    model = Weights()
    options = OptimizerOptions(weight_decay=DECAY, **keys)
    freeze(model, options.groups)
    optimizer = make_optimizer(model, LR, **dict(options))
    step, rng = Runs(optimizer), np.random.default_rng(0)
    drawn = [{p.name: rng.normal(size=p.shape).astype(np.float32) for p in optimizer.parameters} for _ in range(T)]
    for gradients in drawn:
        step(*(Tensor(gradients[p.name]) for p in optimizer.parameters))
    return model, optimizer, drawn


def norm(array: np.ndarray) -> float:
    return float(np.sqrt((array**2).sum()))


def reference(name: str, W: np.ndarray, gradients: list[np.ndarray], decay: float, matrix: bool) -> np.ndarray:
    """The papers' formulas in float64."""
    W, m, v = W.astype(np.float64), np.zeros(W.shape), np.zeros(W.shape)
    beta1, beta2, eps = 0.9, 0.999, 1e-6 if name == "lamb" else 1e-8
    for t, g32 in enumerate(gradients):
        g, lr = g32.astype(np.float64), float(LR[t])
        if name in ("momentum", "nesterov", "sgd"):
            g = g + decay * W
            m = (0.0 if name == "sgd" else 0.9) * m + g
            W = W - lr * (g + 0.9 * m if name == "nesterov" else m)
        elif name == "lars":
            local = 0.001 * norm(W) / (norm(g) + decay * norm(W)) if matrix else 1.0
            m = 0.9 * m + local * (g + decay * W)
            W = W - lr * m
        else:
            g = g + decay * W if name == "adam" else g
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            r = m / (1 - beta1 ** (t + 1)) / (np.sqrt(v / (1 - beta2 ** (t + 1))) + eps)
            if name == "adamw":
                W = W - lr * decay * W
            if name == "lamb":
                r = r + decay * W
                r = r * (norm(W) / norm(r) if matrix else 1.0)
            W = W - lr * r
    return W


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_its_paper(name: str) -> None:
    model, optimizer, drawn = train(name=name)
    for parameter, decay in ((model.weight, DECAY), (model.bias, 0.0)):
        started = getattr(Weights(), parameter.name).asnumpy()
        expected = reference(name, started, [g[parameter.name] for g in drawn], decay, parameter.ndim > 1)
        np.testing.assert_allclose(parameter.asnumpy(), expected, rtol=2e-5, atol=2e-6)
        assert np.abs(parameter.asnumpy() - started).max() > 1e-4
    assert optimizer.global_step.asnumpy() == [T]
    assert bool(velocities(optimizer)) == (name in ("momentum", "sgd"))


@pytest.mark.parametrize("beforehand", [False, True])
def test_momentum_has_the_bits_of_mindspore_s_own(beforehand: bool) -> None:
    """Also with the decay added to several parameters' gradients at once, as a training does."""
    theirs = getattr(nn, "Momentum", None)
    if theirs is None:
        pytest.skip("this MindSpore has none any more")
    found = []
    for make in (Momentum, theirs):
        model, rng = Stages(), np.random.default_rng(0)
        lists = [[p for p in model.trainable_params() if (p.ndim > 1) == matrix] for matrix in (True, False)]
        groups = [{"params": some, "weight_decay": decay} for some, decay in zip(lists, (DECAY, 0.0), strict=True)]
        optimizer = make(groups, Tensor(LR), 0.9)
        step = Decayed(optimizer) if beforehand and make is Momentum else Runs(optimizer)
        for _ in range(T):
            step(*(Tensor(rng.normal(size=p.shape).astype(np.float32)) for p in optimizer.parameters))
        found.append({p.name: p.asnumpy() for p in optimizer.get_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)


class Decayed(Runs):
    def __init__(self, optimizer: nn.Optimizer) -> None:
        super().__init__(optimizer)
        self.buckets = Buckets(optimizer.parameters, decays=decays_beforehand(optimizer))
        assert self.buckets.decays == (np.float32(DECAY), 0.0)

    def construct(self, *gradients):
        buffers = self.buckets.decayed(self.buckets.join(gradients), self.optimizer.parameters)
        return self.optimizer(self.buckets.split(buffers), True)


def test_a_reader_s_optimizer_is_mindspore_s_own() -> None:
    model, _, _ = train(name="mindspore.nn:RMSProp", options={"decay": 0.8})
    other = Weights()
    groups = [{"params": [other.weight], "weight_decay": DECAY}, {"params": [other.bias], "weight_decay": 0.0}]
    step, rng = Runs(nn.RMSProp(groups, Tensor(LR), decay=0.8)), np.random.default_rng(0)
    for _ in range(T):
        step(*(Tensor(rng.normal(size=p.shape).astype(np.float32)) for p in (other.weight, other.bias)))
    np.testing.assert_array_equal(model.weight.asnumpy(), other.weight.asnumpy())


def test_the_schedule_reaches_an_optimizer_that_takes_it_by_name_only() -> None:
    """The second parameter of nn.Adagrad is ``accum``."""
    model, optimizer, _ = train(name="mindspore.nn:Adagrad", options={"accum": 0.5})
    np.testing.assert_array_equal(learning_rates(optimizer)[""], LR)
    assert not np.array_equal(model.weight.asnumpy(), Weights().weight.asnumpy())


def constant(params, learning_rate):
    return Momentum(params, 0.1, 0.9)


def other_parameters(params, learning_rate):
    return Momentum(Weights().trainable_params(), learning_rate, 0.9)


def unscaled(params, learning_rate):
    return Momentum([p for group in params for p in group["params"]], learning_rate, 0.9)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "adam", "options": {"betta1": 0.8}}, r"optimizer\.options: unknown key betta1: did you mean beta1"),
        ({"name": "momentum", "options": {"beta1": 0.8}}, r"unknown key beta1: momentum takes none"),
        ({"name": "adam", "options": {"beta1": 2.0}}, r"optimizer\.name=adam: options=\{'beta1': 2\.0\}: .*beta1"),
        ({"name": "mindspore.nn:RMSProp", "options": {"dekay": 1}}, r"nn:RMSProp: options=.*'dekay'"),
        ({"name": "mindspore.nn:Dense"}, r"mindspore\.nn:Dense"),
        ({"name": f"{__name__}:constant"}, "weight has another learning rate than the schedule's"),
        ({"name": f"{__name__}:other_parameters"}, "an optimizer of other parameters"),
        ({"name": f"{__name__}:unscaled", "groups": [{"params": "bias", "lr_scale": 2.0}]}, "bias has another"),
        ({"name": "builtins:list"}, "builtins:list"),
        ({"groups": [{"params": "biass"}]}, r"optimizer\.groups: 'biass' matches no parameter; did you mean bias"),
        ({"groups": [{"params": "*", "frozen": True}]}, "every parameter is frozen"),
        ({"groups": [{"params": "*", "lr_scale": 2.0}]}, "give one group 1.0"),
    ],
)
def test_what_is_no_optimizer_is_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        train(**keys)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "adan"}, "optimizer.name='adan': did you mean adam"),
        ({"name": "adam", "momentum": 0.8}, "optimizer: momentum=0.8: adam does not take it"),
        (
            {"groups": [{"params": "a", "lr_scal": 2}]},
            "unknown key optimizer.groups.0.lr_scal: did you mean optimizer.groups.0.lr_scale",
        ),
        ({"groups": [{"params": "a", "lr_scale": 0}]}, "optimizer.groups.0.lr_scale=0: "),
        ({"groups": [{"params": "a", "frozen": True, "lr_scale": 2.0}]}, "optimizer.groups.0: what is frozen"),
    ],
)
def test_wrong_keys_are_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^recipe: {words}"):
        parse_config("recipe", {"schedule": {}, "optimizer": keys})


def test_a_group_has_an_array_of_its_own_and_the_first_match_wins() -> None:
    groups = [
        {"params": ["b*"], "lr_scale": 10.0},
        {"params": "*", "weight_decay": 0.5},
    ]
    model, optimizer, drawn = train(name="sgd", groups=groups)
    rates = learning_rates(optimizer)
    np.testing.assert_array_equal(rates["bias"], (LR.astype(np.float64) * 10).astype(np.float32))
    np.testing.assert_array_equal(rates["weight"], LR)
    np.testing.assert_array_equal(rates[""], LR)
    W, b = Weights().weight.asnumpy().astype(np.float64), Weights().bias.asnumpy().astype(np.float64)
    for t, gradients in enumerate(drawn):
        W, b = W - LR[t] * (gradients["weight"] + 0.5 * W), b - 10.0 * LR[t] * gradients["bias"]
    np.testing.assert_allclose(model.weight.asnumpy(), W, rtol=1e-5)
    np.testing.assert_allclose(model.bias.asnumpy(), b, rtol=1e-5)


class Stages(nn.Cell):
    """Three stages with a BatchNorm each."""

    def __init__(self) -> None:
        super().__init__()
        ms.set_seed(3)
        self.conv1 = nn.Conv2d(1, 4, 3, has_bias=True)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.bn2 = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Dense(4, 5)

    def construct(self, x):
        return self.fc(self.flatten(self.pool(self.bn2(self.conv2(self.bn1(self.conv1(x)))))))


def update(model: nn.Cell, *settings: dict[str, Any], steps: int = 3, **step: Any) -> tuple[Any, list[StepResult]]:
    optimizer = {"groups": list(settings), "weight_decay": 0.1}
    tree = {"schedule": {}, "data": {"global_batch": 8}, "step": step, "optimizer": optimizer}
    config = parse_config("recipe", {**tree, "log": {"layers": ["*.weight"]}, "snapshots": {"layers": ["fc.weight"]}})
    freeze(model, config.optimizer.groups)
    made = make_step(RunConfig.model_validate(config), Network(model, [0.5], [0.2]), LR)
    rng, results = np.random.default_rng(2), []
    for _ in range(steps):
        images = rng.integers(0, 255, (8, 1, 6, 6)).astype(np.uint8)
        labels = rng.integers(0, 5, 8).astype(np.int32)
        results.append(made.report.read(made(Tensor(images), Tensor(labels), GO_ON)))
    return made, results


@pytest.mark.parametrize("frozen", [["conv1.*", "bn1.*"], ["conv2.*", "bn2.*"]], ids=["first", "middle"])
def test_a_frozen_stage_stays_bit_for_bit_as_it_is(frozen: list[str]) -> None:
    model = Stages()
    started = {p.name: p.asnumpy().copy() for p in model.get_parameters()}
    step, results = update(model, {"params": frozen, "frozen": True}, {"params": "fc.*", "lr_scale": 10.0})
    stages = {glob.partition(".")[0] for glob in frozen}
    for parameter in model.get_parameters():
        same = np.array_equal(parameter.asnumpy(), started[parameter.name])
        assert same == (parameter.name.partition(".")[0] in stages), parameter.name
    assert sum(sum(sizes) for sizes in step.buckets.sizes_of) == sum(p.size for p in model.trainable_params())
    assert [result.lr for result in results] == LR[:3].tolist()
    assert [result.group_lr for result in results] == [{"fc.*": rate} for rate in learning_rates_of(step)[:3]]
    assert results[0].update_norms["fc.weight"].delta == pytest.approx(
        results[0].group_lr["fc.*"] * results[0].update_norms["fc.weight"].velocity, rel=1e-5
    )
    step.set_train(False)
    step.set_train(True)  # as an evaluation does
    assert not getattr(model, "bn1" if "bn1" in stages else "bn2").use_batch_statistics


def learning_rates_of(step: Any) -> list[float]:
    return learning_rates(step.optimizer)["fc.weight"].tolist()


def test_the_gradient_flows_through_a_frozen_batchnorm() -> None:
    """Against a difference quotient of the loss along the gradient."""
    frozen = {"params": ["conv2.*", "bn2.*"], "frozen": True}
    losses = []
    for shift in (0.0, 1e-3):
        model = Stages()
        model.conv1.bias.set_data(Tensor(model.conv1.bias.asnumpy() + np.float32(shift)))
        # BatchNorm takes the shift out where it uses the batch's own mean: the second stage here must, too.
        freeze_both = {"params": ["conv2.*", "bn?.*"], "frozen": True}
        step, results = update(model, freeze_both, steps=1)
        losses.append(results[0].loss)
        gradient = results[0]
        bias = {p.name: v for p, v in zip(step.optimizer.parameters, step.optimizer.moments, strict=True)}["conv1.bias"]
    assert frozen and gradient.applied
    assert (losses[1] - losses[0]) / 1e-3 == pytest.approx(bias.asnumpy().sum(), rel=0.05, abs=1e-4)


def test_the_norms_of_layers_make_up_the_norm_of_the_gradient() -> None:
    model = Stages()
    _, results = update(model, {"params": ["bn*", "*.bias"], "frozen": True}, steps=2, loss_scale=8.0)
    for result in results:
        assert list(result.layer_gradients) == ["conv1.weight", "conv2.weight", "fc.weight"]
        assert norm(np.array(list(result.layer_gradients.values()))) == pytest.approx(result.grad_norm, rel=1e-5)


def states_of(name: str, cut_at: int | None) -> tuple[dict[str, np.ndarray], list[float]]:
    """Make six updates with the same batches, perhaps going on in a new network after ``cut_at`` of them."""
    config = parse_config(
        "recipe", {"schedule": {}, "data": {"global_batch": 8}, "optimizer": {"name": name}, "step": {"ema": 0.5}}
    )
    rng, losses, saved = np.random.default_rng(2), [], None
    lr = np.linspace(0.01, 0.03, 6).astype(np.float32)
    for start, stop in ((0, 6),) if cut_at is None else ((0, cut_at), (cut_at, 6)):
        model = Stages()
        step = make_step(config, Network(model, [0.5], [0.2]), lr)
        if saved is not None:
            for parameter in model.trainable_params():  # whatever is not restored shows
                parameter.set_data(parameter + 1.0)
            loaded = State.from_files(saved.to_files(), None)
            assert misfits(loaded, step) == []
            restore(loaded, step)
        for _ in range(start, stop):
            images = rng.integers(0, 255, (8, 1, 6, 6)).astype(np.uint8)
            labels = rng.integers(0, 5, 8).astype(np.int32)
            losses.append(step.report.read(step(Tensor(images), Tensor(labels), GO_ON)).loss)
        saved = capture(step)
    assert saved is not None
    assert not any("learning_rate" in key for key in saved.optimizer), "an old schedule must not come back"
    return saved.model | saved.optimizer, losses


@pytest.mark.parametrize(
    "name", ["adam", pytest.param("lamb", marks=pytest.mark.slow), pytest.param("nesterov", marks=pytest.mark.slow)]
)
def test_a_cut_run_goes_on_bit_for_bit(name: str) -> None:
    whole, losses = states_of(name, None)
    cut, losses_of_cut = states_of(name, 3)
    assert losses == losses_of_cut and whole.keys() == cut.keys()
    assert name == "nesterov" or "optimizer.beta2_power" in whole
    for key, array in whole.items():
        np.testing.assert_array_equal(cut[key], array, err_msg=key)


@pytest.mark.parametrize("order", [1, -1])
def test_the_schedule_s_own_rate_is_the_logged_one_whatever_group_has_it(order: int) -> None:
    names = ["weight", "bias"][::order]
    options = OptimizerOptions(groups=[{"params": names[0], "lr_scale": 0.1}, {"params": "*"}])  # type: ignore[list-item]
    optimizer = make_optimizer(Weights(), LR, **dict(options))
    assert optimizer.is_group_lr
    places = group_rates(optimizer, options.groups)
    assert list(places) == ["", names[0]]
    rates = optimizer.get_lr()
    found = {name: float(rates[place].asnumpy()) for name, place in places.items()}
    assert found == {"": pytest.approx(LR[0]), names[0]: pytest.approx(0.1 * LR[0])}
