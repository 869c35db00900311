"""The bound of one float32 update: never exceeded by rounding, exceeded by anything more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from train.comparison.proof import BOUND_UNITS, rounding_unit, update_error

TINY = np.finfo(np.float32).tiny
FINITE = st.floats(-(2.0**60), 2.0**60, width=32)
RATES = st.floats(0, 2.0**10, width=32).map(np.float32)
PAIRS = arrays(np.float32, (2, 40), elements=FINITE)


def two_roundings(W_start, v, lr):
    return W_start - lr * v


def fused(W_start, v, lr):
    """One rounding, as a fused multiply-add (long double holds the exact value wherever the two can interact)."""
    exact = W_start.astype(np.longdouble) - np.longdouble(lr) * v.astype(np.longdouble)
    return exact.astype(np.float32)


def flushed(W_start, v, lr):
    """Two roundings on a unit that flushes results below the smallest normal number to zero."""
    return flush(flush(W_start) - flush(lr * flush(v)))


def flush(values):
    return np.where(np.abs(values) < TINY, np.float32(0), values).astype(np.float32)


@pytest.mark.parametrize("kernel", [two_roundings, fused, flushed])
@settings(max_examples=300, deadline=None)
@given(pair=PAIRS, lr=RATES)
def test_rounding_stays_within_the_bound(kernel, pair, lr):
    W_start, v = flush(pair)
    _, units = update_error(W_start, v, lr, kernel(W_start, v, lr))
    assert units.max() <= BOUND_UNITS


@settings(max_examples=200, deadline=None)
@given(pair=PAIRS, lr=RATES)
def test_a_step_of_three_units_does_not(pair, lr):
    W_start, v = flush(pair)
    W_new = two_roundings(W_start, v, lr)
    W_new += (3 * rounding_unit(W_start, lr * v, W_new)).astype(np.float32)
    assert update_error(W_start, v, lr, W_new)[1].min() > BOUND_UNITS


def test_the_bound_is_nearly_reached_by_ordinary_weights():
    """A looser bound would go unnoticed by the tests above."""
    W_start, v = np.random.default_rng(0).normal(scale=0.1, size=(2, 1_000_000)).astype(np.float32)
    lr = np.float32(0.055)
    _, units = update_error(W_start, v, lr, two_roundings(W_start, v, lr))
    assert 0.9 < units.max() <= BOUND_UNITS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_not_explained(bad):
    one = np.ones(3, np.float32)
    W_new = np.array([0.5, bad, 0.5], np.float32)
    assert not update_error(one, one, np.float32(0.5), W_new)[1].max() <= BOUND_UNITS
