"""What must hold for every schedule, on schedules drawn at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import Schedule, build
from tests.schedules.closed_forms import PI, decay, ulps, warmup

rates = st.floats(1e-6, 10.0)
shares = st.floats(0.0, 1.0)
CONTINUOUS = ("constant", "cosine", "linear", "polynomial", "exponential", "inverse_sqrt", "warmup_stable_decay")
KINDS = (*CONTINUOUS, "step", "multistep")

unhurried = settings(deadline=None, max_examples=60)  # other work on the machine must not fail a test


@st.composite
def configs(draw, kinds=KINDS, max_total=2000):
    """A valid section in plain steps, every option written out."""
    total = draw(st.integers(4, max_total))
    w, high, kind = draw(st.integers(1, total - 3)), draw(rates), draw(st.sampled_from(kinds))
    config = {"kind": kind, "lr_init": high * draw(shares), "lr_max": high, "warmup": w, "total": total}
    if kind in ("cosine", "linear", "polynomial", "warmup_stable_decay"):
        config["lr_end"] = high * draw(shares)
    if kind == "polynomial":
        config["power"] = draw(st.sampled_from([0.5, 0.9, 1, 2, 3.7]))
    if kind == "exponential":
        config["lr_end"] = high * draw(st.floats(1e-6, 1.0))
    if kind in ("step", "multistep"):
        config["gamma"] = draw(st.floats(0.05, 1.0))
    if kind == "step":
        config["every"] = draw(st.integers(max(1, total // 10), total))
    if kind == "multistep":
        config["milestones"] = sorted(draw(st.sets(st.integers(w + 1, total - 1), min_size=1, max_size=5)))
    if kind == "warmup_stable_decay":
        config["decay"] = draw(st.integers(1, total - w - 1))
        config["decay_shape"] = draw(st.sampled_from(["linear", "cosine", "sqrt"]))
    return config


@unhurried
@given(configs())
def test_float32_of_the_closed_form_to_half_an_ulp(config):
    assert ulps(build(config).lr, warmup(config) + decay(config)).max() <= 0.5 * (1 + 1e-4)


@unhurried
@given(configs())
def test_finite_and_within_its_bounds(config):
    lr = build(config).lr
    lowest = np.float32(min(config["lr_init"], config.get("lr_end", 0.0)))
    assert np.all(np.isfinite(lr)) and lr.min() >= lowest and lr.max() <= np.float32(config["lr_max"])


@unhurried
@given(configs())
def test_monotone_inside_every_phase(config):
    schedule = build(config)
    for phase in schedule.phases:
        change = np.diff(schedule.lr[phase.start : phase.stop])
        assert np.all(change >= 0) if phase.name == "warm-up" else np.all(change <= 0)


@unhurried
@given(configs(kinds=CONTINUOUS))
def test_continuous_at_joints(config):
    """The warm-up arrives at the peak by one more step of its own, and a stable phase hands its value on."""
    schedule = build(config)
    lr, w, high = schedule.lr.astype(np.float64), config["warmup"], np.float32(config["lr_max"])
    assert schedule.lr[w] == high
    step = (config["lr_max"] - config["lr_init"]) / w
    assert abs(lr[w] - lr[w - 1] - step) <= 2 * np.spacing(high)
    if config["kind"] == "warmup_stable_decay":
        assert np.all(schedule.lr[w : config["total"] - config["decay"] + 1] == high)


@unhurried
@given(rates, st.integers(1, 64), st.integers(1, 512))
def test_independent_of_the_number_of_ranks(rate, ranks, batch_per_rank):
    """Only the global batch counts, not how it is split."""
    config = {"kind": "cosine", "lr_per_256": rate, "total": 50, "warmup": "10%"}
    split = build(config, global_batch=ranks * batch_per_rank)
    assert split == build(config, global_batch=batch_per_rank * ranks)
    assert split.lr.max() == np.float32(rate * (ranks * batch_per_rank) / 256)


@unhurried
@given(config=configs())
def test_saved_and_loaded_is_the_same(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("schedule") / "schedule.npz"
    schedule = build(config)
    schedule.save(path)
    loaded = Schedule.load(path)
    assert loaded == schedule and loaded.fingerprint == schedule.fingerprint


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_rounding_never_lifts_a_step_over_the_peak(kind):
    """Peaks half-way between two float32 values, where one float64 ulp too much would show."""
    for tail in range(1, 100, 2):
        peak = 1 + tail * 2.0**-23 - 2.0**-24
        for share in np.linspace(0.01, 0.9, 20):
            lr = build({"kind": kind, "lr_max": peak, "lr_end": peak * share, "total": 20}).lr
            assert lr.max() == lr[0] == np.float32(peak)


def test_the_last_steps_are_exact_where_the_literal_formula_is_not():
    """1 + cos(π − small) cancels: the formula as scripts evaluate it loses digits near an lr_end of 0."""
    total, last = 1_000_000, np.arange(999_000, 1_000_000)
    exact = np.longdouble(0.1) * np.sin(PI * (total - last) / (2 * total)) ** 2
    literal = (0.1 * (1 + np.cos(np.pi * last / total)) / 2).astype(np.float32)
    ours = build({"kind": "cosine", "lr_max": 0.1, "total": total}).lr[last]
    assert ulps(ours, list(exact)).max() <= 0.5 * (1 + 1e-6)
    assert ulps(literal, list(exact)).max() > 1
