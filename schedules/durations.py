"""Durations as a recipe writes them: `10` or `10 steps`, `5 epochs`, `3%` of the whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from schedules.errors import BadValue

MAX_STEPS = 10**8  # the learning rate of each is held: 400 MB in the optimizer, some times that while it is made

_DURATION = re.compile(r"(\d{1,24}(?:\.\d{,24})?|\.\d{1,24})\s*(steps?|epochs?|%)?")
_RULE = "must be steps, epochs or percent, not negative: 10, '5 epochs' or '3%'"


def parse(key: str, value: object) -> tuple[Fraction, str]:
    """The number and the unit ("step", "epoch" or "%") of a duration.

    Raises:
        BadValue: naming `key`, the value and the rule.
    """
    match = _DURATION.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise BadValue(key, value, _RULE)
    return Fraction(match[1]), (match[2] or "step").rstrip("s")


@dataclass(frozen=True)
class Clock:
    """Turns durations into ticks: the moments at which the learning rate may change.

    Args:
        steps_per_epoch: None if unknown; epochs are then refused.
        per_epoch: one tick is an epoch instead of a step.
        total: ticks of the whole schedule, which percentages refer to; None while it is being read itself.
    """

    steps_per_epoch: int | None
    per_epoch: bool = False
    total: int | None = None

    @property
    def steps_per_tick(self) -> int:
        return self.steps_per_epoch or 1 if self.per_epoch else 1

    def ticks(self, key: str, value: object) -> int:
        """A duration in ticks. Percentages and epochs are rounded to the nearest step (half up), steps must be whole.

        Raises:
            BadValue: naming `key`, the value and the rule.
        """
        number, unit = parse(key, value)
        if unit == "%":
            return self._percent(key, value, number)
        if unit == "step" and number.denominator != 1:
            raise BadValue(key, value, "must be a whole number of steps")
        steps = self.steps(key, value)
        if steps > MAX_STEPS:
            raise BadValue(key, value, f"is {float(steps):.9g} steps; must be at most {MAX_STEPS}")
        ticks = steps / self.steps_per_tick
        if self.per_epoch and ticks.denominator != 1:
            rule = f"must be whole epochs of {self.steps_per_epoch} steps with update: epoch"
            raise BadValue(key, value, rule)
        return _nearest(ticks)

    def steps(self, key: str, value: object) -> Fraction:
        """A duration in steps or epochs as steps, not rounded.

        Raises:
            BadValue: epochs, of which nobody said how long they are.
        """
        number, unit = parse(key, value)
        if unit == "step":
            return number
        if self.steps_per_epoch is None:
            raise BadValue(key, value, "epochs need steps_per_epoch; set it, or give steps")
        return number * self.steps_per_epoch

    def _percent(self, key: str, value: object, number: Fraction) -> int:
        if self.total is None:
            raise BadValue(key, value, "must be steps or epochs; percentages refer to it")
        if number > 100:
            raise BadValue(key, value, "must be at most 100%")
        return _nearest(number * self.total / 100)


def _nearest(number: Fraction) -> int:
    return int(number + Fraction(1, 2))
