"""What a schedule does that its author may not have meant: no mistakes, but worth a line before training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from schedules.durations import Clock, parse


def notes(durations: Mapping[str, object], clock: Clock, lr: NDArray[np.float32]) -> tuple[str, ...]:
    """One line for each thing worth knowing.

    Args:
        durations: keys of the recipe with their durations, or lists of them, as the user wrote them.
        clock: what they were read with.
        lr: the learning rates of all steps.
    """
    lines = [*_rounded(durations, clock), *_mixed_units(durations, len(lr))]
    wasted = int(np.flatnonzero(lr)[0]) if lr.any() else 0
    if wasted:
        first = "the first update changes" if wasted == 1 else f"the first {wasted} updates change"
        lines.append(f"lr[0] = 0: {first} no weight; set lr_init, or warmup_count_from: 1")
    return tuple(lines)


def _rounded(durations: Mapping[str, object], clock: Clock) -> list[str]:
    return [
        f"{key} = {value!r}: is {float(clock.steps(key, value)):.9g} steps, rounded to {clock.ticks(key, value)}"
        for key, values in durations.items()
        for value in _as_list(values)
        if parse(key, value)[1] == "epoch" and clock.steps(key, value).denominator != 1
    ]


def _mixed_units(durations: Mapping[str, object], total: int) -> list[str]:
    """Numbers without a unit count updates; beside durations in epochs, epochs may have been meant."""
    units = {key: {_unit(key, value) for value in _as_list(values)} for key, values in durations.items()}
    if "epoch" not in set().union(*units.values()):
        return []
    bare = {key: value for key, value in durations.items() if "" in units[key]}
    if not bare:
        return []
    forms = {k: f'["{v[0]} epochs", …]' if isinstance(v, list | tuple) else f'"{v} epochs"' for k, v in bare.items()}
    return [
        f"{_listed(bare, ' = ')}: updates (of {total}), while other keys count epochs; "
        f"if epochs are meant, write {_listed(forms, ': ')}"
    ]


def _listed(pairs: Mapping[str, object], sign: str) -> str:
    return ", ".join(f"{key}{sign}{value}" for key, value in pairs.items())


def _unit(key: str, value: object) -> str:
    """ "epoch", "%", "step" where it is spelt out, else nothing; 0 is the same in all."""
    number, unit = parse(key, value)
    return unit if number == 0 or unit != "step" or "step" in str(value) else ""


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
