"""Kinds of keys of a recipe: a section, how often something is done, and a part that a user brings in a file."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from schedules.durations import Clock, parse
from schedules.errors import BadValue
from train.runtime import device
from train.runtime.errors import UserError, near_matches

SectionType = TypeVar("SectionType", bound=BaseModel)


def whole(value: object) -> object:
    """Return 1e3 as 1000; all else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MAX_INT = 2**31 - 1
PositiveInt = Annotated[int, BeforeValidator(whole), Field(ge=1, le=MAX_INT)]
Count = Annotated[int, BeforeValidator(whole), Field(ge=0, le=MAX_INT)]
Positive = Annotated[float, Field(gt=0)]
Place = Annotated[str, AfterValidator(os.path.expanduser)]
"""A file or a folder; "~" is the user's own, which a shell leaves alone behind "key="."""


# What each type of pydantic's errors says; its own words speak to programmers.
_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": 'must be text; put a number or a date into quotation marks, as "2024"',
    "string_too_short": "must not be empty",
    "string_unicode": "must be text in UTF-8",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "list_type": "must be a list, as [a, b]",
    "tuple_type": "must be a list, as [a, b]",
    "dict_type": "must hold keys with values, as {{a: 1}}",
    "model_type": "is a section: it must hold keys with values, as {{a: 1}}; or leave it out",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "missing": "has too few values",
    "too_long": "has too many values",
}


def in_words(problem: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors says, in words that follow "key=value: "."""
    if problem["type"] not in _WORDS:  # a rule of ours, which says it itself
        return str(problem["msg"]).removeprefix("Value error, ")
    return _WORDS[problem["type"]].format_map(problem.get("ctx", {}))


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's errors as one line, with its key."""
    problem = error.errors(include_url=False)[0]
    return ": ".join(filter(None, [".".join(map(str, problem["loc"])), in_words(problem)]))


def parse_json(kind: type[SectionType], text: str | bytes) -> SectionType:
    """Return the section that ``text`` holds as JSON.

    Raises:
        ValueError: for anything else, NaN and infinity among it; the message is one line.
    """
    try:
        return kind.model_validate(json.loads(text, parse_constant=_refuse_constant))
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")


class Section(BaseModel):
    """A frozen group of keys; strict, so that "ten" or 1.5 never becomes a whole number silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _check_duration(value: object) -> object:
    """Refuse what is no duration; how long an epoch is only the data knows, so epochs may still turn out not whole.

    Raises:
        ValueError: with the rule.
    """
    value = whole(value)
    if isinstance(value, float):
        raise ValueError("must be whole updates, epochs or percent: 10, '5 epochs' or '3%'")
    try:
        _, unit = parse("every", value)
        if unit != "epoch":
            Clock(None, total=1).ticks("every", value)
    except BadValue as error:
        raise ValueError(error.rule) from None
    return value


class Duration:
    """Marks a key whose value, or each value of its list, is a duration."""


Every = Annotated[Any, BeforeValidator(_check_duration), Duration()]
"""A key of a recipe: ``10``, ``"1 epochs"`` or ``"5%"`` of the run; 0: never."""
Steps = Annotated[list[Annotated[Any, BeforeValidator(_check_duration)]], Duration()]
"""A list of updates, each written as an :data:`Every`."""

References = list[str | dict[str, dict[str, Any]]]
"""A key of a recipe: names or ``module:name``, each alone or as ``{name: options}``."""


def split_reference(reference: str | dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of one entry of :data:`References`."""
    if isinstance(reference, str):
        return reference, {}
    ((name, options),) = reference.items()
    return name, options


def check_references(references: References, known: Sequence[str] = ()) -> References:
    """Raise ValueError for an entry that is neither one of ``known``, alone, nor written as a reference."""
    for reference in references:
        if isinstance(reference, dict) and len(reference) != 1:
            raise ValueError(f"{reference}: write one name with its options, {{module:Class: {{key: value}}}}")
        name, options = split_reference(reference)
        if name in known and options:
            raise ValueError(f"{name} takes no options")
        if name not in known and not is_reference(name):
            raise ValueError(f"{name!r}: {near_matches(name, known) if known else ''} yours is written as module:Class")
    return references


def in_updates(section: SectionType, clock: Clock, prefix: str = "") -> SectionType:
    """Return ``section`` with all durations in it, and in the sections below, as whole updates.

    Raises:
        UserError: for one that is no whole number of updates, or less than one without being 0.
    """
    changed: dict[str, Any] = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            changed[key] = in_updates(value, clock, f"{prefix}{key}.")
        elif any(isinstance(mark, Duration) for mark in field.metadata):
            several = isinstance(value, list)
            found = [_in_updates(prefix + key, one, clock) for one in (value if several else [value])]
            changed[key] = found if several else found[0]
    return section.model_copy(update=changed)


def _in_updates(key: str, value: int | str, clock: Clock) -> int:
    try:
        updates = clock.ticks(key, value)
    except BadValue as error:
        raise UserError(f"{key}={value!r}: {error.rule}") from None
    if updates == 0 and parse(key, value)[0] > 0:
        raise UserError(f"{key}={value!r}: is less than one update of {clock.total}; give updates or a larger fraction")
    return updates


@dataclass(frozen=True)
class Traits:
    """What is true of a key, or of a section and so of all its keys, besides its type."""

    may_change_on_resume: bool = False
    """It does not reach the weights."""
    may_differ_between_ranks: bool = False
    """As the place of the data on a node."""
    compared: bool = True
    """It is shown where runs are compared."""


MAY_CHANGE = Traits(may_change_on_resume=True)
MAY_DIFFER = Traits(may_change_on_resume=True, may_differ_between_ranks=True)
UNCOMPARED = Traits(may_change_on_resume=True, compared=False)


def traits(config: type[BaseModel], key: str) -> Traits:
    """Return the traits of the dotted ``key``: its own, or those of the nearest section above that has any."""
    found = Traits()
    section: Any = config
    for part in key.split("."):
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
        if field is None:  # inside a mapping, as of a schedule or a model's options
            break
        found = next((mark for mark in field.metadata if isinstance(mark, Traits)), found)
        section = field.annotation
    return found


def import_from(place: str) -> Any:
    """Return what an entry of one of our own tables stands for: ``package.module:name``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def load_reference(reference: str, key: str) -> Any:
    """Import and return what ``reference`` ("package.module:name") stands for; ``key`` is named in errors.

    The module is looked up as Python does: on ``PYTHONPATH`` and among installed packages. An error inside the module
    keeps its traceback.

    Raises:
        UserError: when the text has another form, or the module or the name in it does not exist.
    """
    module_name, colon, name = reference.partition(":")
    if not (module_name and colon and name):
        raise UserError(f"{key}={reference!r}: write it as package.module:name")
    module = _import(module_name, f"{key}={reference!r}")
    if not hasattr(module, name):
        raise UserError(f"{key}={reference!r}: {module_name} has no {name!r}; {near_matches(name, dir(module))}")
    return getattr(module, name)


def load_part(reference: str, options: Mapping[str, Any], key: str, *arguments: str) -> Any:
    """Return what a user's ``reference`` stands for, after a look at whether it can be called with its ``options``.

    Args:
        key: of the recipe, for messages.
        arguments: what else it is called with, in this order.

    Raises:
        UserError: when there is no such thing, or it takes other arguments.
    """
    found = load_reference(reference, key)
    try:
        inspect.signature(found).bind(*arguments, **options)
    except (TypeError, ValueError) as error:
        with_them = " and ".join(filter(None, [", ".join(arguments), f"its options {dict(options)}"]))
        raise UserError(f"{key}={reference}: is called with {with_them}: {error}") from None
    return found


def match_names(patterns: Iterable[str], names: Sequence[str], key: str) -> list[str]:
    """Return those of ``names`` that the ``patterns`` (names or globs) choose, in their order.

    Raises:
        UserError: for a pattern that matches nothing; the message names ``key`` and lists near matches.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise UserError(f"{key}: {pattern!r} matches no parameter; {near_matches(pattern, names, limit=5)}")
        chosen.update(found)
    return [name for name in names if name in chosen]


def is_reference(name: str) -> bool:
    """Whether ``name`` is written as "module:name", not as the name of something built in."""
    return ":" in name


def import_modules(names: list[str]) -> None:
    """Import the modules of a recipe's ``imports``, for what they register.

    Raises:
        UserError: when one does not exist.
    """
    for name in names:
        _import(name, f"imports={name!r}")


def _import(name: str, setting: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{setting}: {name!r} is not the name of a module, as package.module")
    # A module of the user's may import MindSpore, which reads its environment while it loads.
    device.set_environment_defaults()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the module that was asked for: one that it imports in vain is a bug with a traceback.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        words = "is its folder on PYTHONPATH?"
        if (first := name.partition(".")[0]) in ("models", "schedules", "train"):
            words = f"{first} is a package of this program; give a folder of your own another name"
        raise UserError(f"{setting}: no module {error.name!r}; {words}") from None
    except SystemExit as left:  # a script's: nothing would be trained, and the exit code could be 0
        words = "put what it runs as a script under if __name__ == '__main__'"
        raise UserError(
            f"{setting}: {name} ends with SystemExit({left.code!r}) while it is imported; {words}"
        ) from None
