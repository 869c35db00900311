"""How often something is done in a run: written as the durations of a schedule are, counted in updates."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from schedules.durations import Clock, parse
from schedules.errors import BadValue
from train.errors import UserError


def check(value: object) -> object:
    """Refuse what is no duration; how long an epoch is only the data knows, so epochs may still turn out not whole.

    Raises:
        ValueError: with the rule.
    """
    if isinstance(value, float):
        raise ValueError("must be whole updates, epochs or percent: 10, '5 epochs' or '3%'")
    try:
        _, unit = parse("every", value)
        if unit != "epoch":
            Clock(None, total=1).ticks("every", value)
    except BadValue as error:
        raise ValueError(error.rule) from None
    return value


Every = Annotated[int | str, BeforeValidator(check)]
"""A key of a recipe: ``10``, ``"1 epochs"`` or ``"5%"`` of the run; 0: never."""


def in_updates(key: str, value: int | str, clock: Clock) -> int:
    """Return ``value`` in updates.

    Raises:
        UserError: when it is no whole number of updates, or less than one without being 0.
    """
    try:
        updates = clock.ticks(key, value)
    except BadValue as error:
        raise UserError(f"{key}={value!r}: {error.rule}") from None
    if updates == 0 and parse(key, value)[0] > 0:
        raise UserError(f"{key}={value!r}: is less than one update of {clock.total}; give updates or a larger share")
    return updates
