"""Each training extra against a plain NumPy reference, on a network without BatchNorm."""

from __future__ import annotations

import contextlib
from typing import Literal

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from tests.jobs import DIGITS
from tests.train.step.reference import softmax_loss
from train.data.loader import Batch
from train.recipe.read import load_config
from train.run.opening import make_loader
from train.run.task import open_task
from train.runtime import device
from train.runtime.errors import UserError
from train.step.feeder import Feeder, Mixing
from train.step.gradients import LossScale
from train.step.optimizer import make_optimizer
from train.step.options import ParameterGroup, StepOptions
from train.step.train_step import TrainStep
from train.step.watching import Average, Watch

pytestmark = pytest.mark.usefixtures("on_cpu")

BATCH, SIDE, CLASSES, LR = 12, 4, 5, 0.5


class Linear(nn.Cell):
    """float32 pixels (N, 1, 4, 4) to float32 logits (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        weight = ms.Tensor(rng.normal(0, 0.1, (CLASSES, SIDE * SIDE)).astype(np.float32))
        self.flatten = nn.Flatten()
        self.fc = nn.Dense(SIDE * SIDE, CLASSES, weight_init=weight, bias_init="zeros")

    def construct(self, images):
        return self.fc(self.flatten(images)).astype(ms.float32)


def batches(count: int) -> list[Batch]:
    rng = np.random.default_rng(1)
    return [
        Batch(
            rng.normal(size=(BATCH, 1, SIDE, SIDE)).astype(np.float32),
            rng.integers(0, CLASSES, BATCH).astype(np.int32),
            np.arange(BATCH),
        )
        for _ in range(count)
    ]


def run(
    data: list[Batch],
    options: StepOptions | None = None,
    mixing: Mixing | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
    global_batch: int = BATCH,
):
    """Make one update a batch; return the step, the results and the weights of every state."""
    options = options or StepOptions()
    network = Linear()
    device.set_precision(network, precision, "cpu")
    lr = np.full(len(data), LR, np.float32)
    optimizer = make_optimizer(network, lr, momentum=0.0, weight_decay=0.0, decay_norm_and_bias=False)
    step = TrainStep(
        network,
        optimizer,
        global_batch=global_batch,
        world_size=1,
        options=options,
        watch=Watch(["fc.bias", "fc.weight"]),
    )
    update = Feeder(step, accumulate=options.accumulate, mixing=mixing, seed=3)
    weight = network.fc.weight
    states, results = [weight.asnumpy().copy()], []
    for t, batch in enumerate(data):
        results.append(update(batch, t).result)
        states.append(weight.asnumpy().copy())
    return step, results, states


class Many(Linear):
    """Linear, with 400 numbers of which each is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shifts = ms.ParameterTuple([ms.Parameter(ms.Tensor([0.0]), name=f"shift.{i}") for i in range(400)])

    def construct(self, images):
        return super().construct(images) + ops.addn(self.shifts)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [[], [ParameterGroup(params="fc.*", lr_scale=10.0)]], ids=["", "groups"])
@pytest.mark.parametrize("name", ["momentum", "nesterov", "adamw", "lars", "lamb"])
def test_a_network_of_many_parameters_compiles(name: str, groups: list[ParameterGroup]) -> None:
    """With a loop over them, three calls within each other a turn, MindSpore compiles no more than 1,000."""
    network = Many()
    lr = np.full(2, LR, np.float32)
    decay = {"momentum": 0.9, "weight_decay": 0.1, "decay_norm_and_bias": True}
    optimizer = make_optimizer(network, lr, name=name, groups=groups, **decay)
    names = [p.name for p in optimizer.parameters]
    options = StepOptions(accumulate=2, clip_norm=1.0, ema=0.9, loss_scale=2.0)
    watch = Watch(names, names, keeps_gradients=True)
    step = TrainStep(network, optimizer, global_batch=BATCH, world_size=1, options=options, watch=watch)
    update = Feeder(step, accumulate=2, mixing=None, seed=3)
    for t, batch in enumerate(batches(2)):
        result = update(batch, t).result
        assert result.applied and result.update_norms["shift.399"].delta > 0 < result.layer_gradients["shift.399"]


def first_logits(images: np.ndarray) -> np.ndarray:
    weight = Linear().fc.weight.asnumpy().astype(np.float64)
    return images.reshape(BATCH, -1).astype(np.float64) @ weight.T


def test_label_smoothing() -> None:
    (batch,) = batches(1)
    _, results, _ = run([batch], StepOptions(label_smoothing=0.1))
    targets = np.eye(CLASSES)[batch.labels] * 0.9 + 0.1 / CLASSES
    assert results[0].loss == pytest.approx(softmax_loss(first_logits(batch.images), targets), rel=1e-5)


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_mixing(mixing: Mixing) -> None:
    (batch,) = batches(1)
    _, results, _ = run([batch], mixing=mixing)
    own = mixing.lam(SIDE, SIDE, seed=3, step=0).astype(np.float64)
    assert 0 < own.mean() < 1, "something is mixed"
    mixed = own * batch.images + (1 - own) * batch.images[::-1]
    hot = np.eye(CLASSES)[batch.labels]
    targets = own.mean() * hot + (1 - own.mean()) * hot[::-1]
    assert results[0].loss == pytest.approx(softmax_loss(first_logits(mixed), targets), rel=1e-5)


def test_micro_batches_of_one_image_cannot_be_mixed() -> None:
    settings = ["data.global_batch=7", "model.options={depths: [1, 1, 1]}", "step.cutmix=1.0"]
    task = open_task(load_config(DIGITS, settings))
    for accumulate, message in (
        (3, ""),
        (4, "leaves one for a micro-batch"),
        (8, "into so many micro-batches"),
    ):
        config = load_config(DIGITS, [*settings, f"step.accumulate={accumulate}"])
        with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
            make_loader(config, task)
    make_loader(load_config(DIGITS, ["data.global_batch=7", "step.accumulate=7"]), task)


def test_mixing_weights_follow_seed_and_step_and_both_kinds_take_turns() -> None:
    both = Mixing(mixup=1.0, cutmix=1.0)
    maps = [both.lam(32, 32, seed=1, step=step) for step in range(200)]
    np.testing.assert_array_equal(maps[7], both.lam(32, 32, seed=1, step=7))
    assert (maps[7] != both.lam(32, 32, seed=2, step=7)).any()
    boxes = sum(set(np.unique(own)) <= {0.0, 1.0} for own in maps)
    assert 70 < boxes < 130
    assert abs(np.mean([own.mean() for own in maps]) - 0.5) < 0.15
    assert not Mixing().enabled


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)])
def test_accumulation_equals_one_large_batch(parts: int) -> None:
    data = batches(3)
    _, whole_results, whole = run(data)
    _, results, states = run(data, StepOptions(accumulate=parts))
    np.testing.assert_allclose(states, whole, rtol=0, atol=1e-6)
    assert np.abs(whole[3] - whole[0]).max() > 0.05
    for one, other in zip(results, whole_results, strict=True):
        assert one[:4] == pytest.approx(other[:4], rel=1e-5)


def test_clipping_shortens_the_reduced_gradient_and_reports_it_unclipped() -> None:
    data = batches(1)
    _, free_results, free = run(data)
    norm = free_results[0].grad_norm
    for limit in (norm / 4, norm * 4):
        _, results, states = run(data, StepOptions(clip_norm=limit))
        factor = min(1.0, limit / norm)
        np.testing.assert_allclose(states[1] - states[0], factor * (free[1] - free[0]), rtol=1e-4, atol=1e-7)
        assert results[0].grad_norm == pytest.approx(norm)


def test_the_moving_average_of_weights() -> None:
    step, _, states = run(batches(6), StepOptions(ema=0.3))
    expected = states[0].astype(np.float64)
    for t, state in enumerate(states[1:]):
        decay = min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * state
    average = {p.name: p.asnumpy() for p in step.average.averages}["train_step.ema.fc.weight"]
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(average - states[-1]).max() > 1e-3


def test_the_average_of_a_scalar_is_a_scalar() -> None:
    """The kernel's step is of shape (1,), and would make one of it."""
    weight = Parameter(Tensor(2.0, ms.float32), name="temperature")
    average = Average(0.5, [weight])
    weight.set_data(Tensor(4.0, ms.float32))
    average(Parameter(Tensor([3], ms.int32), name="global_step"))
    (found,) = average.averages
    assert found.shape == () and found.asnumpy() == 0.25 * 2.0 + 0.75 * 4.0


def test_a_power_of_two_as_loss_scale_changes_no_bit() -> None:
    data = batches(3)
    _, _, plain = run(data)
    _, _, scaled = run(data, StepOptions(loss_scale=1024.0))
    np.testing.assert_array_equal(plain, scaled)


def test_a_gradient_too_small_for_float16_survives_with_a_loss_scale() -> None:
    """A batch of which this is a tiny part: the gradient of a logit is far below float16's smallest number, 6e-8."""
    (batch,) = batches(1)
    global_batch = BATCH * 2**22
    images, hot = batch.images.reshape(BATCH, -1), np.eye(CLASSES)[batch.labels]
    odds = np.exp(first_logits(batch.images))
    expected = (odds / odds.sum(axis=1, keepdims=True) - hot).T @ images / global_batch

    def gradient(**options: float) -> np.ndarray:
        step, _, _ = run([batch], StepOptions(**options), precision="fp16", global_batch=global_batch)
        return {p.name: p.asnumpy() for p in step.optimizer.moments}["optimizer.moments.fc.weight"]

    assert not gradient().any()
    for window in (0, 9):
        found = gradient(loss_scale=2.0**22, loss_scale_window=window)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2 * np.abs(expected).max())


def test_the_loss_scale_halves_on_a_skipped_update_and_doubles_after_good_ones() -> None:
    data = batches(6)
    data[1].images[0] = np.nan
    step, results, _ = run(data[:2], StepOptions(loss_scale=8.0, loss_scale_window=2))
    assert [result.applied for result in results] == [True, False]
    assert step.scaling.factor.asnumpy() == 4.0
    step, results, states = run(data, StepOptions(loss_scale=8.0, loss_scale_window=2))
    # good, bad (halved), good, good (doubled), good, good (doubled)
    assert step.scaling.factor.asnumpy() == 16.0
    assert [result.scale_lowered for result in results] == [False, True, False, False, False, False]
    np.testing.assert_array_equal(states[1], states[2])
    assert np.isfinite(states[-1]).all()


def test_a_skip_that_cannot_lower_the_loss_scale_is_told_apart() -> None:
    data = batches(4)
    for batch in data[:3]:
        batch.images[0] = np.nan
    _, results, _ = run(data, StepOptions(loss_scale=4.0, loss_scale_window=9))
    assert [result.applied for result in results] == [False, False, False, True]
    assert [result.scale_lowered for result in results] == [True, True, False, False], "4, 2, 1 is the minimum"
    _, results, _ = run(data, StepOptions(loss_scale=4.0))
    assert not any(result.scale_lowered for result in results), "a constant"


def test_the_loss_scale_stays_finite() -> None:
    largest = 2.0**127
    applied = ms.Tensor(True)
    scale = LossScale(largest, window=1)
    assert [scale(applied) for _ in range(2)] == [0, 0] and scale.factor.asnumpy() == largest
    assert scale(ms.Tensor(False)) == 1 and scale.factor.asnumpy() == largest / 2
    scale(applied)
    assert scale.factor.asnumpy() == largest


def test_half_precision_computes_close_to_single_and_bf16_is_refused_on_a_cpu() -> None:
    (batch,) = batches(1)
    single, half = Linear(), Linear()
    device.set_precision(half, "fp16", "cpu")
    images = ms.Tensor(batch.images)
    difference = np.abs(half(images).asnumpy() - single(images).asnumpy()).max()
    assert 0 < difference < 1e-2
    with pytest.raises(UserError, match=r"step\.precision='bf16'"):
        device.set_precision(single, "bf16", "cpu")


@pytest.mark.parametrize("norm", ["mixed", "fp32"])
def test_a_decoder_computes_in_half_precision_too(norm: Literal["mixed", "fp32"]) -> None:
    decoder = nn.SequentialCell(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2dTranspose(2, 1, 3), nn.Conv2d(1, 1, 1))
    device.set_precision(decoder, "fp16", "cpu", norm)
    assert decoder(ms.ops.ones((1, 1, 4, 4))).dtype == ms.float16


def test_the_norms_of_recorded_layers_are_those_of_the_weights() -> None:
    data = batches(4)
    data[2].images[0] = np.nan
    _, results, states = run(data)
    for t, result in enumerate(results):
        assert list(result.update_norms) == ["fc.bias", "fc.weight"]
        norms = result.update_norms["fc.weight"]
        assert norms.delta == pytest.approx(np.linalg.norm(states[t] - states[t + 1]), rel=1e-5)
        assert norms.weight == pytest.approx(np.linalg.norm(states[t]), rel=1e-5)
        if result.applied:
            assert norms.delta == pytest.approx(LR * norms.velocity, rel=1e-4)
    assert [result.update_norms["fc.weight"].delta > 0 for result in results] == [True, True, False, True]
