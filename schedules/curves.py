"""The one idea behind every schedule: curves laid end to end.

A `Rise` is a closed form that climbs from `low` at j = 0 to `high` at j = n. A warm-up reads it forwards,
a decay reads the same rise backwards: at the low end, where small differences matter, nothing cancels.
A `Segment` gives a rise (or any other curve over its own steps) a name and a length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedules import elementary
from schedules.elementary import Floats, steps

CHUNK = 1 << 14  # steps computed at a time: the float64 work fits the cache, the memory is that of the result

# Values at the integers first ≤ j < stop, at most CHUNK of them, as a new float64 array.
Curve = Callable[[int, int], Floats]
Rise = Callable[[float, float, int], Curve]


@dataclass(frozen=True)
class Segment:
    """`curve` over the segment's own steps 0 … steps − 1; `phase` names it in tables and pictures."""

    phase: str
    steps: int
    curve: Curve


def evaluate(segments: Sequence[Segment]) -> NDArray[np.float32]:
    """Lay the segments end to end: float32 of shape (sum of steps,). Computed in float64, rounded once."""
    lr = np.empty(sum(segment.steps for segment in segments), dtype=np.float32)
    begin = 0
    for segment in segments:
        for first in range(0, segment.steps, CHUNK):
            stop = min(first + CHUNK, segment.steps)
            lr[begin + first : begin + stop] = segment.curve(first, stop)
        begin += segment.steps
    return lr


def constant(value: float) -> Curve:
    return lambda first, stop: np.full(stop - first, value)


def rising(rise: Rise, low: float, high: float, n: int, *, first_step: int = 0) -> Curve:
    """Step i has the rise's value at j = i + first_step."""
    curve = rise(low, high, n)
    return lambda first, stop: _at_most(high, curve(first + first_step, stop + first_step))


def falling(rise: Rise, high: float, low: float, n: int, *, first_step: int = 0) -> Curve:
    """Step i has the rise's value at j = n − i − first_step."""
    curve = rise(low, high, n)
    last = n - first_step + 1
    return lambda first, stop: _at_most(high, curve(last - stop, last - first))[::-1]


def _at_most(high: float, values: Floats) -> Floats:
    """Rounding can carry a rise one float64 ulp over its upper end; under its lower end it never gets."""
    return np.minimum(values, high, out=values)


def _blend(low: float, high: float, weight: Floats) -> Floats:
    weight *= high - low
    weight += low
    return weight


def linear(low: float, high: float, n: int) -> Curve:
    """low + (high − low) · j/n."""
    return lambda first, stop: _blend(low, high, steps(first, stop) / n)


def polynomial(exponent: float) -> Rise:
    """low + (high − low) · (j/n)^exponent."""

    def rise(low: float, high: float, n: int) -> Curve:
        return lambda first, stop: _blend(low, high, elementary.power(steps(first, stop) / n, exponent))

    return rise


def cosine(low: float, high: float, n: int) -> Curve:
    """low + (high − low) · (1 − cos(π j/n))/2, as sin²(π/2 · j/n).

    The sine of a chunk comes from its first angle and a table of small angles by the addition theorem: two
    products instead of a series for every step. All terms are positive, so nothing cancels near j = 0.
    """
    width = min(CHUNK, n + 1)
    small = steps(0, width) / n
    sin_small, cos_small = elementary.sin_quarter(small), elementary.sin_quarter(1 - small)

    def curve(first: int, stop: int) -> Floats:
        sin_first, cos_first = elementary.sin_quarter(first / n), elementary.sin_quarter((n - first) / n)
        sine = sin_small[: stop - first] * cos_first
        sine += cos_small[: stop - first] * sin_first
        sine *= sine
        return _blend(low, high, sine)

    return curve


def one_minus_sqrt(low: float, high: float, n: int) -> Curve:
    """low + (high − low) · (1 − √(1 − j/n)); read backwards it is the 1 − √ cool-down of Hägele et al. 2024."""
    return lambda first, stop: _blend(low, high, 1 - np.sqrt((n - steps(first, stop)) / n))


def exponential(low: float, high: float, n: int) -> Curve:
    """low · (high/low)^(j/n), for low > 0."""
    octaves = float(elementary.log2(high) - elementary.log2(low))
    return lambda first, stop: low * elementary.exp2(steps(first, stop) * (octaves / n))


def inverse_sqrt(peak: float, timescale: int) -> Curve:
    """peak · √(timescale / (timescale + i)): Vaswani et al. 2017 with timescale = the warm-up's steps."""
    return lambda first, stop: peak * np.sqrt(timescale / (timescale + steps(first, stop)))


def staircase(peak: float, factor: float, every: int, *, first_step: int) -> Curve:
    """peak · factor^⌊(i + first_step)/every⌋, for factor > 0."""
    octaves = float(elementary.log2(factor))
    return lambda first, stop: peak * elementary.exp2((steps(first, stop) + first_step) // every * octaves)
