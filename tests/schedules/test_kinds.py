"""Every kind against the published formula, and against MindSpore's own schedules, run live."""

import numpy as np
import pytest

from schedules import build
from tests.schedules.closed_forms import decay, half_cosine, ulps, warmup

HALF_ULP = 0.5 * (1 + 1e-6)
WARM = {"lr_init": 0.02, "lr_max": 0.3, "warmup": 40, "total": 1000}


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "constant"},
        {"kind": "cosine", "lr_end": 0.007},
        {"kind": "linear", "lr_end": 0.007},
        {"kind": "polynomial", "lr_end": 0.007, "power": 3},
        {"kind": "polynomial", "lr_end": 0.0, "power": 0.9},
        {"kind": "exponential", "lr_end": 0.0003},
        {"kind": "step", "every": 130, "gamma": 0.3},
        {"kind": "multistep", "milestones": [300, 600, 800], "gamma": 0.1},
        {"kind": "inverse_sqrt"},
        {"kind": "warmup_stable_decay", "decay": 200, "decay_shape": "linear", "lr_end": 0.007},
        {"kind": "warmup_stable_decay", "decay": 200, "decay_shape": "cosine", "lr_end": 0.007},
        {"kind": "warmup_stable_decay", "decay": 200, "decay_shape": "sqrt", "lr_end": 0.007},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_a_kind_is_its_formula_to_half_an_ulp(config):
    config = {**WARM, **config}
    assert ulps(build(config).lr, warmup(config) + decay(config)).max() <= HALF_ULP


def test_cycles_of_restarts():
    lr = build({"kind": "cosine_restarts", "lr_max": 0.3, "lr_end": 0.01, "total": 70, "cycles": 3, "cycle_mult": 2,
                "cycle_decay": 0.5}).lr  # fmt: skip
    expected = half_cosine(0.3, 0.01, 10) + half_cosine(0.15, 0.01, 20) + half_cosine(0.075, 0.01, 40)
    assert ulps(lr, expected).max() <= HALF_ULP


def test_a_decay_over_all_that_follows_the_warmup():
    config = {"kind": "warmup_stable_decay", "lr_max": 0.1, "warmup": 2, "decay": 8, "total": 10}
    schedule = build(config)
    assert ulps(schedule.lr, warmup(config) + decay({**config, "kind": "linear"})).max() <= HALF_ULP
    assert [phase.name for phase in schedule.phases] == ["warm-up", "peak", "decay"]


def test_one_cycle_in_two_and_in_three_phases():
    rates = {"kind": "one_cycle", "lr_init": 0.01, "lr_max": 0.3, "lr_end": 0.0, "total": 100}
    up = half_cosine(0.3, 0.01, 30, 31)[:0:-1]  # the fall read backwards, without the peak itself
    assert ulps(build(rates).lr, up + half_cosine(0.3, 0.0, 70)).max() <= HALF_ULP
    three = build({**rates, "three_phase": True})
    assert ulps(three.lr, up + half_cosine(0.3, 0.01, 30) + half_cosine(0.01, 0.0, 40)).max() <= HALF_ULP
    assert [p.name for p in three.phases] == ["warm-up", "peak", "decay", "annihilation"]


@pytest.mark.parametrize(
    "shape, at",
    [
        ("linear", lambda u: 0.01 + 0.09 * u),
        ("cosine", lambda u: 0.01 + 0.09 * (1 - np.cos(np.pi * u)) / 2),
        ("exponential", lambda u: 0.01 * 10**u),
        ("constant", lambda u: 0.01 + 0 * u),
    ],
)
def test_shapes_of_a_warmup(shape, at):
    config = {"kind": "constant", "lr_init": 0.01, "lr_max": 0.1, "warmup": 20, "total": 30, "warmup_shape": shape}
    np.testing.assert_allclose(build(config).lr[:20], at(np.arange(20) / 20), rtol=1e-7)
    np.testing.assert_array_equal(build(config).lr[20:], np.float32(0.1))
    from_one = build({**config, "warmup_count_from": 1}).lr
    np.testing.assert_allclose(from_one[:20], at(np.arange(1, 21) / 20), rtol=1e-7)


def test_the_last_step_reaches_lr_end_if_told_to():
    for kind in ("cosine", "linear", "polynomial", "exponential"):
        config = {"kind": kind, "lr_max": 0.1, "lr_end": 0.003, "warmup": 10, "total": 60}
        before, at = build(config).lr, build({**config, "reach_end": True}).lr
        assert before[-1] > np.float32(0.003) and at[-1] == np.float32(0.003), kind
        assert before[10] == at[10] == np.float32(0.1), kind


def test_an_exponential_decay_to_the_smallest_float64():
    """high/low is beyond float64 there."""
    lr = build({"kind": "exponential", "lr_max": 1.0, "lr_end": 5e-324, "total": 1000}).lr
    np.testing.assert_allclose(lr[::10], 10.0 ** (np.log10(5e-324) * np.arange(100) / 100), rtol=1e-5, atol=1e-40)


def test_a_cooldown_stays_at_lr_end():
    schedule = build({"kind": "cosine", "lr_max": 0.1, "lr_end": 0.003, "total": 60, "cooldown": "10%"})
    assert ulps(schedule.lr[:54], half_cosine(0.1, 0.003, 54)).max() <= HALF_ULP
    assert np.all(schedule.lr[54:] == np.float32(0.003)) and schedule.phase_at(54) == "cool-down"


def test_update_each_epoch_holds_the_value_of_its_first_step():
    config = {"kind": "cosine", "lr_max": 0.1, "warmup": "2 epochs", "total": "10 epochs", "steps_per_epoch": 7}
    by_epoch = build({**config, "update": "epoch"})
    assert np.array_equal(by_epoch.lr, np.repeat(build(config).lr[::7], 7))
    assert [(p.name, p.start) for p in by_epoch.phases] == [("warm-up", 0), ("peak", 14), ("decay", 21)]


@pytest.fixture(scope="module")
def scheduler(on_cpu):
    """MindSpore's experimental schedulers, as name → function of (optimizer)."""
    from mindspore.experimental.optim import lr_scheduler

    return lr_scheduler


def run(make, lr, steps):
    """The rates that an experimental optimizer really holds before each of its updates."""
    from mindspore import Parameter
    from mindspore.experimental import optim

    optimizer = optim.SGD([Parameter(np.zeros(1, np.float32), name="w")], lr)
    schedule, values = make(optimizer), []
    for _ in range(steps):
        values.append(float(optimizer.param_groups[0]["lr"]))
        schedule.step()
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    "make, config",
    [
        (lambda s, o: s.PolynomialLR(o, 50, 2.0), {"kind": "polynomial", "power": 2, "total": 50}),
        (lambda s, o: s.StepLR(o, 7, 0.5), {"kind": "step", "every": 7, "gamma": 0.5, "total": 50}),
        (lambda s, o: s.MultiStepLR(o, [10, 30], 0.1), {"kind": "multistep", "milestones": [10, 30], "total": 50}),
        (lambda s, o: s.ExponentialLR(o, 0.01 ** (1 / 50)), {"kind": "exponential", "lr_end": 0.001, "total": 50}),
        (
            lambda s, o: s.CosineAnnealingWarmRestarts(o, 10, 2, 0.001),
            {"kind": "cosine_restarts", "cycles": 3, "cycle_mult": 2, "lr_end": 0.001, "total": 70},
        ),
    ],
    ids=["polynomial", "step", "multistep", "exponential", "cosine_restarts"],
)
def test_agrees_with_mindspores_experimental_schedulers(scheduler, make, config):
    live = run(lambda optimizer: make(scheduler, optimizer), 0.1, config["total"])
    # They step from value to value in float32, so their own rounding adds up.
    np.testing.assert_allclose(build({**config, "lr_max": 0.1}).lr, live, rtol=3e-6)


def test_agrees_with_mindspores_dynamic_lr_bit_for_bit():
    from mindspore import nn

    epochs = {"lr_max": 0.1, "total": "12 epochs", "steps_per_epoch": 5}
    for live, config in [
        (nn.cosine_decay_lr(0.001, 0.1, 60, 5, 12), {"kind": "cosine", "lr_end": 0.001, "update": "epoch"}),
        (
            nn.polynomial_decay_lr(0.1, 0.001, 60, 5, 12, 0.9),
            {"kind": "polynomial", "power": 0.9, "lr_end": 0.001, "update": "epoch"},
        ),
        (nn.exponential_decay_lr(0.1, 0.5, 60, 5, 2, True), {"kind": "step", "every": "2 epochs", "gamma": 0.5}),
        (nn.piecewise_constant_lr([10, 30, 60], [0.1, 0.01, 0.001]), {"kind": "multistep", "milestones": [10, 30]}),
        (nn.warmup_lr(0.1, 60, 5, 4), {"kind": "constant", "warmup": "4 epochs", "update": "epoch"}),
    ]:
        np.testing.assert_array_equal(build({**epochs, **config}).lr, np.float32(live), err_msg=str(config))
