"""What may follow a warm-up. A kind is one function from a Plan to segments, and one registration.

The keyword arguments of the function are the kind's own keys in a recipe: their names, types and defaults are read
from its signature (see options.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from schedules import curves
from schedules.curves import Rise, Segment
from schedules.errors import BadValue, known
from schedules.options import Rate

Builder = Callable[..., list[Segment]]
SHAPES: Mapping[str, Rise] = {
    "linear": curves.linear,
    "cosine": curves.cosine,
    "exponential": curves.exponential,
    "sqrt": curves.one_minus_sqrt,
}


@dataclass(frozen=True)
class Plan:
    """What a kind has to work with; all durations in ticks.

    Attributes:
        warmup: where the kind begins. steps: how many ticks it has to fill. warmup + steps is the end.
        reach_end: the last tick of a decay has its end value; otherwise it stands one tick before it.
    """

    lr_init: float
    lr_max: float
    warmup: int
    steps: int
    reach_end: bool = False

    def decay(
        self, rise: Rise, high: float, low: float, steps: int, *, name: str = "decay", elapsed: int = 0
    ) -> Segment:
        """A segment from `high` down to `low`, as if it had begun `elapsed` ticks ago."""
        if low > high:
            raise BadValue("lr_end", low, f"must not exceed the rate it decays from, {high:g}")
        if rise is curves.exponential and low == 0:
            raise BadValue("lr_end", low, "an exponential decay never gets there; must be > 0")
        if self.reach_end and steps + elapsed < 2:
            raise BadValue("reach_end", True, f"the {name} phase must have 2 steps at least, it has {steps}")
        n = steps + elapsed - self.reach_end
        return Segment(name, steps, curves.falling(rise, high, low, n, first_step=elapsed))


@dataclass(frozen=True)
class Kind:
    """A registered builder, with the values it proposes for the common keys (`warmup`, `warmup_shape`)."""

    build: Builder
    defaults: Mapping[str, object]


@dataclass(frozen=True)
class Mode:
    """One kind as another script has it.

    Attributes:
        fixed: options that the script leaves no choice about.
        ignored: keys that the script takes and never uses.
        build: the script's own formula, instead of the kind's.
    """

    fixed: Mapping[str, object] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    build: Builder | None = None


KINDS: dict[str, Kind] = {}


def register(name: str, **defaults: object) -> Callable[[Builder], Builder]:
    """Make a builder known to recipes as `kind: name`."""

    def add(build: Builder) -> Builder:
        KINDS[name] = Kind(build, defaults)
        return build

    return add


@register("constant")
def constant(plan: Plan) -> list[Segment]:
    """lr_max to the end."""
    return [Segment("constant", plan.steps, curves.constant(plan.lr_max))]


@register("cosine")
def cosine(plan: Plan, *, lr_end: Rate = 0.0) -> list[Segment]:
    """Half a cosine from lr_max to lr_end (Loshchilov and Hutter 2017, one cycle)."""
    return [plan.decay(curves.cosine, plan.lr_max, lr_end, plan.steps)]


@register("linear")
def linear(plan: Plan, *, lr_end: Rate = 0.0) -> list[Segment]:
    """A straight line from lr_max to lr_end."""
    return [plan.decay(curves.linear, plan.lr_max, lr_end, plan.steps)]


def rise_named(key: str, name: str) -> Rise:
    if name not in SHAPES:
        raise BadValue(key, name, f"unknown; {known(name, SHAPES)}")
    return SHAPES[name]


def warmup_rise(shape: str, lr_init: float) -> Rise:
    """The rise of a warm-up from lr_init to lr_max."""
    if shape == "constant":
        return lambda low, high, u: np.full(u.shape, low)
    if shape == "exponential" and lr_init == 0:
        raise BadValue("lr_init", 0, "an exponential warm-up cannot leave it; must be > 0")
    return rise_named("warmup_shape", shape)
