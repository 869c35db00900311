"""The document's schedule and `get_lr`."""

import math

import numpy as np
import pytest

from schedules import build, get_lr

RATES = {"lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001}
DOCUMENT = {"kind": "cosine", **RATES, "warmup": 10, "total": 100}


def zoo_loop(lr_init, lr_max, lr_end, warmup, total):
    """The model zoo's MobileNetV2 formula, one step at a time in Python floats."""
    lr = []
    for i in range(total):
        if i < warmup:
            lr.append(lr_init + (lr_max - lr_init) * i / warmup)
        else:
            progress = (i - warmup) / (total - warmup)
            lr.append(lr_end + (lr_max - lr_end) * (1 + math.cos(math.pi * progress)) / 2)
    return np.array(lr).astype(np.float32)


def test_the_two_values_of_the_document():
    lr = get_lr(**RATES, warmup_steps=10, total_steps=100)
    assert lr.dtype == np.float32 and lr.shape == (100,)
    assert lr[5] == np.float32(0.055)
    assert lr[60] == pytest.approx(0.041905, abs=1e-6)
    assert lr[0] == np.float32(0.01) and lr[10] == np.float32(0.1)


@pytest.mark.parametrize("warmup, total", [(0, 1), (0, 7), (1, 2), (10, 100), (99, 100), (20_000, 50_000)])
def test_bit_for_bit_the_loop_of_the_zoo(warmup, total):
    lr = get_lr(**RATES, warmup_steps=warmup, total_steps=total)
    assert np.array_equal(lr, zoo_loop(*RATES.values(), warmup, total))


def test_epochs_are_steps_per_epoch_steps():
    by_epochs = get_lr(**RATES, warmup_epochs=2, total_epochs=20, steps_per_epoch=5)
    assert np.array_equal(by_epochs, get_lr(**RATES, warmup_steps=10, total_steps=100))


def test_build_gives_the_same_array():
    schedule = build(DOCUMENT)
    assert np.array_equal(schedule.lr, get_lr(**RATES, warmup_steps=10, total_steps=100))
    names = [schedule.phase_at(t) for t in (0, 9, 10, 11, 99)]
    assert names == ["warm-up", "warm-up", "peak", "decay", "decay"]


def test_the_array_of_get_lr_belongs_to_the_caller():
    lr = get_lr(**RATES, warmup_steps=10, total_steps=100)
    lr *= 2
    assert get_lr(**RATES, warmup_steps=10, total_steps=100)[10] == np.float32(0.1)


@pytest.mark.parametrize(
    "durations, message",
    [
        ({"warmup_steps": 100, "total_steps": 100}, r"^warmup_steps = '100 steps': must be shorter"),
        ({"warmup_steps": 0, "total_steps": 0}, r"^total_steps = '0 steps': must be 1 step"),
        ({"warmup_steps": 0, "total_steps": 10.5}, r"^total_steps = '10.5 steps': .* whole"),
        ({"warmup_epochs": 3, "total_epochs": 2, "steps_per_epoch": 5}, r"^warmup_epochs = '3 epochs': must be"),
        ({"warmup_epochs": 1, "total_epochs": 2, "steps_per_epoch": 0}, r"^steps_per_epoch = 0: must be a whole"),
        ({"warmup_epochs": 1, "total_epochs": 2}, r"give either all of the first or all of the second"),
        ({"warmup_steps": 1, "total_epochs": 2, "steps_per_epoch": 3}, r"give either"),
        ({}, r"give either"),
    ],
)
def test_get_lr_refuses_by_the_name_of_its_argument(durations, message):
    with pytest.raises(ValueError, match=message):
        get_lr(**RATES, **durations)


@pytest.mark.parametrize("key", RATES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_get_lr_refuses_rates_that_are_no_rates(key, value):
    with pytest.raises(ValueError, match=rf"^{key} = {value}: must be a finite number, not negative"):
        get_lr(**{**RATES, key: value}, warmup_steps=10, total_steps=100)
