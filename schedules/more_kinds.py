"""More of what may follow a warm-up, each kind as :mod:`schedules.kinds` says."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np

from schedules import curves
from schedules.curves import Curve, Rise, Segment
from schedules.errors import BadValue
from schedules.kinds import Plan, register, rise_named
from schedules.options import Count, Exponent, Factor, Flag, Name, Rate, TickList, Ticks


def inverse_sqrt_of(peak: float, timescale: int) -> Curve:
    """peak · √(timescale / (timescale + i)): Vaswani et al. 2017 with timescale = the warm-up's steps."""
    return lambda i: peak * np.sqrt(timescale / (timescale + i))


def staircase(peak: float, factor: float, every: int, *, first_step: int) -> Curve:
    """peak · factor^⌊(i + first_step)/every⌋."""
    return lambda i: peak * factor ** ((i + first_step) // every)


def power_of(exponent: float) -> Rise:
    """low + (high − low) · u^exponent."""
    return lambda low, high, u: curves.linear(low, high, u**exponent)


@register("polynomial")
def polynomial(plan: Plan, *, lr_end: Rate = 0.0, power: Exponent = 2.0) -> list[Segment]:
    """lr_end + (lr_max − lr_end) · (1 − i/D)^power."""
    return [plan.decay(power_of(power), plan.lr_max, lr_end, plan.steps)]


@register("exponential")
def exponential(plan: Plan, *, lr_end: Rate) -> list[Segment]:
    """lr_max · (lr_end/lr_max)^(i/D)."""
    return [plan.decay(curves.exponential, plan.lr_max, lr_end, plan.steps)]


@register("step")
def step(plan: Plan, *, every: Ticks, gamma: Factor = 0.1) -> list[Segment]:
    """lr_max · gamma^⌊t/every⌋, counted from step 0, warm-up included (Goyal et al. 2017)."""
    if every < 1:
        raise BadValue("every", every, "must be 1 step at least")
    return [Segment("decay", plan.steps, staircase(plan.lr_max, gamma, every, first_step=plan.warmup))]


@register("multistep")
def multistep(plan: Plan, *, milestones: TickList, gamma: Factor = 0.1) -> list[Segment]:
    """lr_max, times gamma from each milestone on; milestones count from step 0, warm-up included."""
    end = plan.warmup + plan.steps
    bounds = [plan.warmup, *milestones, end]
    if not milestones or any(a >= b for a, b in pairwise(bounds)):
        raise BadValue(
            "milestones",
            milestones,
            f"must increase, lie after the warm-up ({plan.warmup}) and before the end ({end}); "
            'plain numbers are updates, epochs are written ["30 epochs", …]',
        )
    return stages(plan.lr_max, gamma, bounds)


def stages(peak: float, gamma: float, bounds: list[int]) -> list[Segment]:
    """Constant stages between consecutive bounds, each gamma times the one before."""
    segments = []
    for number, (start, stop) in enumerate(pairwise(bounds), 1):
        segments.append(Segment(f"stage {number}", stop - start, curves.constant(peak)))
        peak *= gamma
    return segments


@register("cosine_restarts")
def cosine_restarts(
    plan: Plan,
    *,
    cycles: Count,
    cycle_mult: Count = 1,
    cycle_decay: Factor = 1.0,
    lr_end: Rate = 0.0,
) -> list[Segment]:
    """SGDR (Loshchilov and Hutter 2017): cycles that fill the whole, each cycle_mult times as long as the one
    before and starting from cycle_decay times its peak. Ends of cycles are rounded to the nearest tick."""
    fits = cycles <= plan.steps and cycle_mult ** (cycles - 1) <= plan.steps
    parts = [0, *accumulate(cycle_mult**k for k in range(cycles if fits else 0))]
    ends = [(2 * plan.steps * part + parts[-1]) // (2 * parts[-1]) for part in parts if fits]
    if not fits or any(a == b for a, b in pairwise(ends)):
        raise BadValue("cycles", cycles, f"every cycle needs a step; {plan.steps} follow the warm-up")
    segments, peak = [], plan.lr_max
    for number, (start, stop) in enumerate(pairwise(ends), 1):
        segments.append(plan.decay(curves.cosine, peak, lr_end, stop - start, name=f"cycle {number}"))
        peak *= cycle_decay
    return segments


@register("inverse_sqrt")
def inverse_sqrt(plan: Plan, *, timescale: Ticks = 0) -> list[Segment]:
    """lr_max · √(timescale / (timescale + i)); the timescale is the warm-up unless given (Vaswani et al. 2017)."""
    timescale = timescale or plan.warmup
    if not timescale:
        raise BadValue("timescale", 0, "without a warm-up it must be given, 1 step at least")
    return [Segment("decay", plan.steps, inverse_sqrt_of(plan.lr_max, timescale))]


@register("warmup_stable_decay")
def warmup_stable_decay(plan: Plan, *, decay: Ticks, decay_shape: Name = "linear", lr_end: Rate = 0.0) -> list[Segment]:
    """lr_max until the last `decay` steps, then down to lr_end (Hu et al. 2024; Hägele et al. 2024)."""
    if not 0 < decay <= plan.steps:
        raise BadValue("decay", decay, f"must be 1 step at least, and at most the {plan.steps} after the warm-up")
    return [
        Segment("stable", plan.steps - decay, curves.constant(plan.lr_max)),
        plan.decay(rise_named("decay_shape", decay_shape), plan.lr_max, lr_end, decay),
    ]


@register("one_cycle", warmup="30%", warmup_shape="cosine")
def one_cycle(plan: Plan, *, lr_end: Rate = 0.0, three_phase: Flag = False) -> list[Segment]:
    """Up to lr_max and down to lr_end by cosines. With three_phase, down to lr_init as fast as it went up,
    then to lr_end (Smith and Topin 2018)."""
    if not plan.warmup:
        raise BadValue("warmup", 0, "a cycle goes up first; must be 1 step at least")
    if not three_phase:
        return [plan.decay(curves.cosine, plan.lr_max, lr_end, plan.steps)]
    if plan.warmup >= plan.steps:
        raise BadValue("warmup", plan.warmup, "must be shorter than half of the whole with three_phase")
    mirrored = curves.falling(curves.cosine, plan.lr_max, plan.lr_init, plan.warmup)
    return [
        Segment("decay", plan.warmup, mirrored),
        plan.decay(curves.cosine, plan.lr_init, lr_end, plan.steps - plan.warmup, name="annihilation"),
    ]
