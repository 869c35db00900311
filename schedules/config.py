"""From the `schedule:` section of a recipe to a Schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from schedules.curves import Segment, constant, evaluate, rising
from schedules.durations import Clock
from schedules.errors import BadValue, known
from schedules.kinds import KINDS, Mode, Plan, warmup_rise
from schedules.notes import notes
from schedules.options import arguments_for, count, durations_of, flag, options_of, rate, text
from schedules.schedule import Phase, Schedule

DIALECTS = {
    "zoo_mobilenetv2": "schedules.dialects:ZOO_MOBILENETV2",
    "zoo_resnet": "schedules.dialects:ZOO_RESNET",
    "mindcv": "schedules.dialects:MINDCV",
    "torch": "schedules.dialects:TORCH",
    "timm": "schedules.dialects:TIMM",
}
"""The kinds of each, imported when a recipe names it."""
COMMON_KEYS = (
    *("kind", "dialect", "total", "steps_per_epoch", "update"),
    *("lr_init", "lr_max", "lr_per_256", "reach_end", "cooldown"),
    *("warmup", "warmup_shape", "warmup_count_from"),
)


def build(
    config: Mapping[str, object], *, steps_per_epoch: int | None = None, global_batch: int | None = None
) -> Schedule:
    """Build the schedule that a recipe's section describes. README.md lists the keys.

    Args:
        config: the section; a key whose value is None counts as absent.
        steps_per_epoch: what `epochs` refers to; must agree with the section's own, if that has one.
        global_batch: images per update over all ranks, for `lr_per_256`.

    Raises:
        ValueError: `schedule.key = value: rule` for the first key that breaks a rule.
    """
    try:
        return Schedule(*compose(config, steps_per_epoch, global_batch))
    except BadValue as error:
        raise error.at(f"schedule.{error.key}") from None


def compose(
    config: Mapping[str, object], steps_per_epoch: int | None = None, global_batch: int | None = None
) -> tuple[NDArray[np.float32], tuple[Phase, ...], tuple[str, ...]]:
    """The array, phases and notes of `build`; refuses with the bare name of the key."""
    given = {key: value for key, value in config.items() if value is not None}
    kind, mode = _kind(given)
    given, options = _split(given, kind, mode)
    merged = {**given, **options}
    clock = _clock(given, steps_per_epoch)
    warmup, cooldown, total = _durations(given, clock)
    clock = replace(clock, total=total)
    lr_max = _peak(given, global_batch)
    plan = Plan(
        lr_init=rate("lr_init", given.get("lr_init", 0.0)),
        lr_max=lr_max,
        warmup=warmup,
        steps=total - warmup - cooldown,
        reach_end=flag("reach_end", given.get("reach_end", False)),
    )
    if plan.lr_init > lr_max:
        raise BadValue("lr_init", plan.lr_init, f"must not exceed the peak, {lr_max:g}")
    builder = mode.build or KINDS[kind].build
    arguments = arguments_for(builder, options, clock)
    segments = [
        *_warmup(given, plan),
        *builder(plan, **arguments),
        *_cooldown(cooldown, arguments),
    ]
    if plan.reach_end and "lr_end" not in arguments:
        raise BadValue("reach_end", True, f"kind {kind} has no lr_end to reach")
    lr, phases = _lay(segments, plan, clock.steps_per_tick)
    keys = ["total", "warmup", "cooldown", *durations_of(builder)]
    return lr, phases, notes({key: merged[key] for key in keys if key in merged}, clock, lr)


def _kind(given: Mapping[str, object]) -> tuple[str, Mode]:
    if "kind" not in given:
        raise BadValue("kind", None, f"required; {known('', KINDS)}")
    kind = text("kind", given["kind"])
    if kind not in KINDS:
        raise BadValue("kind", kind, f"unknown; {known(kind, KINDS)}")
    if "dialect" not in given:
        return kind, Mode()
    dialect = text("dialect", given["dialect"])
    if dialect not in DIALECTS:
        raise BadValue("dialect", dialect, f"unknown; {known(dialect, DIALECTS)}")
    module, _, name = DIALECTS[dialect].partition(":")
    modes: Mapping[str, Mode] = getattr(import_module(module), name)
    if kind not in modes:
        raise BadValue("dialect", dialect, f"has no kind {kind}; it has {', '.join(modes)}")
    return kind, modes[kind]


def _split(given: dict[str, object], kind: str, mode: Mode) -> tuple[dict[str, object], dict[str, object]]:
    """The common keys, with the defaults of the kind and what the dialect fixes, and the kind's own keys."""
    own = options_of(mode.build or KINDS[kind].build)
    for key, value in given.items():
        if key not in COMMON_KEYS and key not in own and key not in mode.ignored:
            raise BadValue(key, value, _unknown_key(key, kind, [*COMMON_KEYS, *own]))
        if key in mode.fixed and value != mode.fixed[key]:
            raise BadValue(key, value, f"dialect {given['dialect']} has {mode.fixed[key]} here")
    merged = {**KINDS[kind].defaults, **given, **mode.fixed}
    common = {key: value for key, value in merged.items() if key in COMMON_KEYS}
    return common, {k: v for k, v in merged.items() if k in own and k not in mode.ignored}


def _unknown_key(key: str, kind: str, keys: list[str]) -> str:
    owners = [name for name, other in KINDS.items() if key in options_of(other.build)]
    if kind in owners:
        return "the dialect decides it"
    if owners:
        return f"kind {kind} does not use it; {', '.join(owners)} would"
    return f"unknown key; {known(key, keys)}"


def _clock(given: Mapping[str, object], steps_per_epoch: int | None) -> Clock:
    own = given.get("steps_per_epoch")
    if own is not None and steps_per_epoch is not None and own != steps_per_epoch:
        raise BadValue("steps_per_epoch", own, f"the data have {steps_per_epoch}; leave the key out or correct it")
    value = own if own is not None else steps_per_epoch
    update = given.get("update", "step")
    if update not in ("step", "epoch"):
        raise BadValue("update", update, "must be step or epoch")
    if update == "epoch" and value is None:
        raise BadValue("update", update, "needs steps_per_epoch")
    return Clock(None if value is None else count("steps_per_epoch", value), per_epoch=update == "epoch")


def _durations(given: Mapping[str, object], clock: Clock) -> tuple[int, int, int]:
    if "total" not in given:
        raise BadValue("total", None, "required: steps or epochs")
    total = clock.ticks("total", given["total"])
    if total < 1:
        raise BadValue("total", given["total"], "must be 1 step at least")
    clock = replace(clock, total=total)
    warmup, cooldown = (clock.ticks(key, given.get(key, 0)) for key in ("warmup", "cooldown"))
    if warmup >= total:
        raise BadValue("warmup", given["warmup"], f"must be shorter than the whole, {given['total']}")
    if warmup + cooldown >= total:
        rule = f"must leave steps between the warm-up and the end, {given['total']}"
        raise BadValue("cooldown", given["cooldown"], rule)
    return warmup, cooldown, total


def _peak(given: Mapping[str, object], global_batch: int | None) -> float:
    """lr_max, or lr_per_256 × global batch / 256: the linear scaling rule of Goyal et al. 2017."""
    if ("lr_max" in given) == ("lr_per_256" in given):
        raise BadValue("lr_max", given.get("lr_max"), "exactly one of lr_max and lr_per_256 must be given")
    key = "lr_max" if "lr_max" in given else "lr_per_256"
    peak = rate(key, given[key])
    if key == "lr_per_256":
        if global_batch is None:
            raise BadValue(key, given[key], "needs the global batch (data.global_batch)")
        peak = peak * count("global_batch", global_batch) / 256
    if np.float32(peak) == 0:
        raise BadValue(key, given[key], "must be > 0, in float32, too")
    return peak


def _warmup(given: Mapping[str, object], plan: Plan) -> list[Segment]:
    shape = text("warmup_shape", given.get("warmup_shape", "linear"))
    count_from = given.get("warmup_count_from", 0)
    if count_from not in (0, 1) or isinstance(count_from, bool):
        raise BadValue("warmup_count_from", count_from, "must be 0 (i/W) or 1 ((i+1)/W)")
    rise = warmup_rise(shape, plan.lr_init)
    if not plan.warmup:
        return []
    curve = rising(rise, plan.lr_init, plan.lr_max, plan.warmup, first_step=int(count_from == 1))
    return [Segment("warm-up", plan.warmup, curve)]


def _cooldown(ticks: int, arguments: Mapping[str, object]) -> list[Segment]:
    if not ticks:
        return []
    if "lr_end" not in arguments:
        raise BadValue("cooldown", ticks, "the kind has no lr_end to stay at")
    return [Segment("cool-down", ticks, constant(rate("lr_end", arguments["lr_end"])))]


def _lay(segments: list[Segment], plan: Plan, steps_per_tick: int) -> tuple[NDArray[np.float32], tuple[Phase, ...]]:
    """Evaluate the segments and name their phases; every tick lasts steps_per_tick steps."""
    lr = evaluate(segments)
    phases, start = [], 0
    for segment in segments:
        stop = start + segment.steps
        if segment.phase == "decay" and start == plan.warmup and lr[start] == np.float32(plan.lr_max):
            phases.append(("peak", start, start + 1))  # where a decay begins is what one looks for in a table
            start += 1
        if start < stop:
            phases.append((segment.phase, start, stop))
        start = stop
    scaled = (Phase(name, start * steps_per_tick, stop * steps_per_tick) for name, start, stop in phases)
    return np.repeat(lr, steps_per_tick), tuple(scaled)
