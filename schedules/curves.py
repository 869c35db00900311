"""The one idea behind every schedule: curves laid end to end.

A `Rise` is a closed form that climbs from `low` at u = 0 to `high` at u = 1. A warm-up reads it forwards,
a decay reads the same rise backwards: at the low end, where small differences matter, nothing cancels.
A `Segment` gives a rise (or any other curve over its own steps) a name and a length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]  # a segment's own steps 0, 1, 2, … → their rates
Rise = Callable[[float, float, Floats], Floats]  # (low, high, u) with 0 ≤ u ≤ 1 → rates


@dataclass(frozen=True)
class Segment:
    """`curve` over the segment's own steps 0 … steps − 1; `phase` names it in tables and pictures."""

    phase: str
    steps: int
    curve: Curve


def evaluate(segments: Sequence[Segment]) -> NDArray[np.float32]:
    """Lay the segments end to end: float32 of shape (sum of steps,). Computed in float64, rounded once."""
    return np.concatenate([segment.curve(np.arange(segment.steps, dtype=float)) for segment in segments]).astype("f4")


def constant(value: float) -> Curve:
    return lambda i: np.full(i.shape, value)


def rising(rise: Rise, low: float, high: float, n: int, *, first_step: int = 0) -> Curve:
    """Step i has the rise's value at u = (i + first_step)/n."""
    return lambda i: _at_most(high, rise(low, high, (i + first_step) / n))


def falling(rise: Rise, high: float, low: float, n: int, *, first_step: int = 0) -> Curve:
    """Step i has the rise's value at u = (n − i − first_step)/n."""
    return lambda i: _at_most(high, rise(low, high, (n - first_step - i) / n))


def _at_most(high: float, values: Floats) -> Floats:
    """Rounding can carry a rise one float64 ulp over its upper end; under its lower end it never gets."""
    return np.minimum(values, high)


def linear(low: float, high: float, u: Floats) -> Floats:
    """low + (high − low) · u."""
    return low + (high - low) * u


def cosine(low: float, high: float, u: Floats) -> Floats:
    """low + (high − low) · (1 − cos πu)/2, as sin²(πu/2): the difference would lose digits near u = 0."""
    return linear(low, high, np.sin(np.pi / 2 * u) ** 2)


def one_minus_sqrt(low: float, high: float, u: Floats) -> Floats:
    """low + (high − low) · (1 − √(1 − u)); read backwards it is the 1 − √ cool-down of Hägele et al. 2024."""
    return linear(low, high, 1 - np.sqrt(1 - u))


def exponential(low: float, high: float, u: Floats) -> Floats:
    """low · (high/low)^u, for low > 0; written so that no quotient overflows."""
    return low ** (1 - u) * high**u
