"""Durations as a recipe writes them: `10`, `5 epochs`, `3%`."""

from __future__ import annotations

import re
from fractions import Fraction

_PATTERN = re.compile(r"\s*([0-9.]+)\s*(steps?|epochs?|%)?\s*")


def to_steps(key: str, value: object, *, steps_per_epoch: object, total: int | None) -> int:
    match = _PATTERN.fullmatch(str(value))
    if not match or isinstance(value, bool):
        raise ValueError(f"schedule.{key} = {value!r}: must be a number of steps, '5 epochs' or '3%'")
    number, unit = Fraction(match[1]), match[2] or "steps"
    if unit == "%":
        if total is None:
            raise ValueError(f"schedule.{key} = {value!r}: must be steps or epochs")
        return round(number * total / 100)
    if unit.startswith("epoch"):
        if steps_per_epoch is None:
            raise ValueError(f"schedule.{key} = {value!r}: epochs need steps_per_epoch")
        number *= int(steps_per_epoch)  # type: ignore[call-overload]
    if number.denominator != 1:
        raise ValueError(f"schedule.{key} = {value!r}: must be a whole number of steps")
    return int(number)
