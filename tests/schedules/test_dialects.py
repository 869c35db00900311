"""Dialects against the formulas of the scripts, written out by hand; sources are named beside each."""

import math

import numpy as np
import pytest

from schedules import DIALECTS, build
from tests.schedules.test_document import zoo_loop
from tests.schedules.test_kinds import run, scheduler  # noqa: F401  (a fixture)

RATES = {"lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001}
COSINE = {"kind": "cosine", **RATES, "warmup": 10, "total": 100}


def test_zoo_mobilenetv2():
    """mindspore-ai/models, mobilenetv2/src/lr_generator.py, get_lr."""
    lr = build({**COSINE, "dialect": "zoo_mobilenetv2"}).lr
    assert np.array_equal(lr, zoo_loop(*RATES.values(), 10, 100))


def test_zoo_resnet_cosine():
    """mindspore-ai/models, resnet/src/lr_generator.py: (i+1)/W, no lr_end, 0.47 of a turn from step 0, times a line."""
    expected = []
    for i in range(100):
        if i < 10:
            expected.append(0.01 + (0.1 - 0.01) / 10 * (i + 1))
        else:
            line, wave = (100 - i) / 90, 0.5 * (1 + math.cos(math.pi * 2 * 0.47 * i / 90))
            expected.append(0.1 * (line * wave + 0.00001))
    lr = build({**COSINE, "dialect": "zoo_resnet"}).lr
    np.testing.assert_array_equal(lr, np.float32(expected))
    assert lr[60] == pytest.approx(0.0136, abs=5e-5)


def test_zoo_resnet_cosine_beyond_half_a_turn():
    """With a long warm-up the script's cosine turns round; so does the dialect's."""
    expected = [0.1 * ((100 - i) / 4 * 0.5 * (1 + math.cos(math.pi * 0.94 * i / 4)) + 1e-5) for i in range(96, 100)]
    lr = build({**COSINE, "warmup": 96, "dialect": "zoo_resnet"}).lr
    np.testing.assert_allclose(lr[96:], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "kind, after",
    [
        ("linear", lambda i: 0.1 - (0.1 - 0.001) * (i - 10) / 90),
        ("polynomial", lambda i: 0.1 * (1 - (i - 10) / 90) ** 2),
        ("multistep", lambda i: 0.1 * 0.1 ** sum(i >= share * 97 for share in (0.3, 0.6, 0.8))),
    ],
)
def test_zoo_resnet_other_modes(kind, after):
    """The same script's `linear`, `poly` and `steps`: i/W in the warm-up, lr_end only in `linear`."""
    total = 97 if kind == "multistep" else 100  # thresholds between two steps
    expected = [0.01 + 0.09 * i / 10 if i < 10 else after(i) for i in range(total)]
    lr = build({**COSINE, "kind": kind, "total": total, "dialect": "zoo_resnet"}).lr
    np.testing.assert_allclose(lr, expected, rtol=1e-7)


@pytest.mark.parametrize("update", ["step", "epoch"])
def test_mindcv_cosine_decay(update):
    """mindcv/scheduler/dynamic_lr.py: linear(_refined)_lr, then cosine_decay(_refined)_lr, then eta_min for the epochs
    beyond decay_epochs. lr_epoch_stair chooses the variant; here 2 + 7 + 3 epochs of 5 steps."""

    def clock(step):
        return step // 5 if update == "epoch" else step / 5

    warm = [0.01 + min(clock(i), 2) / 2 * (0.1 - 0.01) for i in range(10)]
    main = [0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(math.pi * min(clock(i), 7) / 7)) for i in range(35)]
    config = {"warmup": "2 epochs", "cooldown": "3 epochs", "total": "12 epochs", "steps_per_epoch": 5}
    lr = build({**COSINE, **config, "update": update, "dialect": "mindcv"}).lr
    np.testing.assert_array_equal(lr, np.float32([*warm, *main, *[0.001] * 15]))


def test_torch_linear_then_cosine(scheduler):  # noqa: F811
    """torch.optim.lr_scheduler: SequentialLR(LinearLR(0.1, 1.0, 10), CosineAnnealingLR(90, 0.001)). MindSpore carries
    a port of these classes, which runs here; and the closed form of PyTorch's documentation, by hand."""

    def make(optimizer):
        parts = [scheduler.LinearLR(optimizer, 0.1, 1.0, 10), scheduler.CosineAnnealingLR(optimizer, 90, 0.001)]
        return scheduler.SequentialLR(optimizer, parts, [10])

    lr = build({**COSINE, "dialect": "torch"}).lr
    np.testing.assert_allclose(lr, run(make, 0.1, 100), rtol=3e-6)
    linear = [0.1 * (0.1 + (1.0 - 0.1) * t / 10) for t in range(10)]
    annealed = [0.001 + (0.1 - 0.001) * (1 + math.cos(math.pi * t / 90)) / 2 for t in range(90)]
    np.testing.assert_allclose(lr, linear + annealed, rtol=6e-8)


@pytest.mark.parametrize("update, per", [("step", 1), ("epoch", 5)])
def test_timm_cosine(update, per):
    """timm/scheduler/cosine_lr.py, CosineLRScheduler._get_lr with warmup_prefix=False (its default): after warmup_t
    the cosine of t, not of t − warmup_t; beyond t_initial, lr_min. t counts epochs unless sched_on_updates."""

    def get_lr(t, warmup_t, t_initial):
        if t < warmup_t:
            return 0.01 + t * (0.1 - 0.01) / warmup_t
        return 0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(math.pi * t / t_initial)) if t < t_initial else 0.001

    expected = [get_lr(i // per, 10 // per, 90 // per) for i in range(100)]
    config = {**COSINE, "cooldown": 10, "update": update, "steps_per_epoch": 5, "dialect": "timm"}
    np.testing.assert_array_equal(build(config).lr, np.float32(expected))
    assert build(config).lr.max() < np.float32(0.1)  # falls short of lr_max: that is timm's convention


def test_every_dialect_differs_or_is_documented_as_equal():
    """zoo_mobilenetv2, torch and mindcv write one schedule in three ways; the others are their own."""
    arrays = {name: build({**COSINE, "dialect": name}).fingerprint for name in DIALECTS}
    assert arrays["zoo_mobilenetv2"] == arrays["torch"] == arrays["mindcv"] == build(COSINE).fingerprint
    assert len(set(arrays.values())) == 3
