"""What a value in a recipe may be: one parser for each type of option.

A parser takes the key, the value as YAML gave it, and the clock for durations; it returns the value, or raises
BadValue. The `Annotated` types name a parser where a function declares an option: `lr_end: Rate = 0.0`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, get_type_hints

import numpy as np

from schedules.durations import Clock
from schedules.errors import BadValue

FLOAT32_MAX = float(np.finfo(np.float32).max)


def rate(key: str, value: object, clock: Clock | None = None) -> float:
    """A finite float ≥ 0 that fits float32. YAML reads `1e-3` as text, so a number in text is accepted."""
    try:
        # Python's float, not YAML's, takes 1_000 for a number.
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= FLOAT32_MAX:
        raise BadValue(key, value, "must be a finite number, not negative")
    return number


def factor(key: str, value: object, clock: Clock | None = None) -> float:
    number = rate(key, value)
    if not 0 < number <= 1:
        raise BadValue(key, value, "must be > 0 and ≤ 1")
    return number


def exponent(key: str, value: object, clock: Clock | None = None) -> float:
    number = rate(key, value)
    if not 0 < number <= 100:
        raise BadValue(key, value, "must be > 0 and ≤ 100")
    return number


def count(key: str, value: object, clock: Clock | None = None) -> int:
    number = rate(key, value)
    if number < 1 or number != int(number):
        raise BadValue(key, value, "must be a whole number ≥ 1")
    return int(number)


def flag(key: str, value: object, clock: Clock | None = None) -> bool:
    if not isinstance(value, bool):
        raise BadValue(key, value, "must be true or false")
    return value


def text(key: str, value: object, clock: Clock | None = None) -> str:
    if not isinstance(value, str):
        raise BadValue(key, value, "must be a name")
    return value


def ticks(key: str, value: object, clock: Clock) -> int:
    return clock.ticks(key, value)


def tick_list(key: str, value: object, clock: Clock) -> list[int]:
    if not isinstance(value, list | tuple):
        raise BadValue(key, value, "must be a list of durations")
    return [clock.ticks(key, item) for item in value]


Rate = Annotated[float, rate]  # a learning rate
Factor = Annotated[float, factor]  # what a learning rate is multiplied by, 0 < factor ≤ 1
Exponent = Annotated[float, exponent]
Count = Annotated[int, count]
Flag = Annotated[bool, flag]
Name = Annotated[str, text]
Ticks = Annotated[int, ticks]  # a duration: steps, epochs or percent
TickList = Annotated[list[int], tick_list]


def options_of(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters: what the function calls its options."""
    parameters = inspect.signature(function).parameters
    return {key: p for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def durations_of(function: Callable[..., object]) -> list[str]:
    """The options of `function` that are durations, or lists of them."""
    hints = get_type_hints(function, include_extras=True)
    return [key for key in options_of(function) if hints[key].__metadata__[0] in (ticks, tick_list)]


def arguments_for(function: Callable[..., object], given: Mapping[str, object], clock: Clock) -> dict[str, object]:
    """Every option of `function`: parsed where given, else its default.

    Raises:
        BadValue: a value that breaks its type's rule, or a required option that is absent.
    """
    hints = get_type_hints(function, include_extras=True)
    arguments = {}
    for key, parameter in options_of(function).items():
        if key in given:
            (parse,) = hints[key].__metadata__
            arguments[key] = parse(key, given[key], clock)
        elif parameter.default is inspect.Parameter.empty:
            raise BadValue(key, None, "required by this kind")
        else:
            arguments[key] = parameter.default
    return arguments
