"""From the text of a recipe to a checked :class:`train.recipe.sections.RunConfig`, each mistake in one line.

YAML by the safe loader, ``key=value`` arguments laid over it. Imports no MindSpore.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

import models
import schedules
from schedules import yaml12
from schedules.durations import Clock
from schedules.options import FLOAT32_MAX
from train.recipe.sections import ONE_VALUE, ModelConfig, RunConfig, flat, unfold
from train.runtime.errors import UserError, refused
from train.runtime.files import read_file
from train.runtime.keys import import_modules, in_updates, in_words, is_reference

MAX_RECIPE_BYTES = 1 << 20


TINY = 2.0**-126
"""float32 has fewer digits for what is nearer to zero, and devices take it for zero."""
LONGEST_VALUE = 200
"""Characters of a wrong value that are shown."""


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read the recipe at ``path``, apply ``key=value`` overrides and check everything that needs no data.

    Raises:
        UserError: for a missing or unreadable file, bad YAML, an unknown key, a wrong type or a value out of range.
    """
    path = os.path.expanduser(path)
    config = parse_config(path, override(read_recipe(Path(path), "--config "), overrides))
    import_modules(config.imports)
    _check_model(path, config.model)
    _check_schedule(path, config)
    return config


def override(tree: dict[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Lay ``key=value`` arguments over ``tree``; one value for a section leaves its other keys alone."""
    tree = unfold(tree)
    for argument in arguments:
        section, _, value = argument.partition("=")
        if section in ONE_VALUE and not value.startswith("{"):
            argument = f"{section}.{ONE_VALUE[section]}={value}"
        apply_override(tree, argument, _is_text)
    return tree


def to_yaml(config: RunConfig, **extra: object) -> str:
    """Return the resolved configuration as YAML that :func:`load_config` reads back (without ``extra``)."""
    return to_text({**config.model_dump(), **extra})


def read_recipe(path: Path, key: str = "", missing: str = "recipes are in train/recipes/") -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        key: what gives the path, for errors.
        missing: what to say where it is not there.

    Raises:
        UserError: when it is missing, unreadable or something else.
    """
    try:
        text = read_file(path, most=MAX_RECIPE_BYTES).decode()
    except FileNotFoundError:
        raise UserError(f"{key}{path}: no such file; {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        words = f"{key}{path}: cannot be read as text: {getattr(error, 'strerror', None) or error}"
        raise refused(error, words) from None
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, this file is {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], argument: str, is_text: Callable[[str], bool] = lambda key: False) -> None:
    """Set ``a.b=value`` in ``tree``; the value is read as YAML, an empty one stays empty text.

    Args:
        is_text: whether a dotted key holds nothing but text; its value is then taken as it is written.

    Raises:
        UserError: when it is not written as key=value, or a key above it holds a value.
    """
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise UserError(f"argument {argument!r}: expected key=value, e.g. seed=2 or schedule.lr_max=0.2")
    *parents, leaf = key.split(".")
    if len(parents) > yaml12.DEEPEST:
        raise UserError(f"argument {argument!r}: keys within keys go {yaml12.DEEPEST} deep, not {len(parents)}")
    node = tree
    for parent in parents:
        if node.get(parent) is None:  # not there, or a section of which every key is a comment
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise UserError(f"argument {argument!r}: {parent} holds a value, not keys")
    node[leaf] = text if not text or is_text(key) else _parse_yaml(text, f"argument {argument!r}")


def to_text(tree: Mapping[str, Any]) -> str:
    """Return ``tree`` as YAML that :func:`read_recipe` reads back as itself."""
    return yaml.dump(dict(tree), Dumper=yaml12.Dumper, sort_keys=False, allow_unicode=True)


def _parse_yaml(text: str, origin: str) -> object:
    try:
        return yaml12.parse(text)
    except ValueError as error:
        raise UserError(f"{origin}{error}") from None


def read_schedule(config: RunConfig, steps_per_epoch: int | None) -> schedules.Schedule:
    """Build the run's schedule; a value that does not fit becomes a :class:`UserError` naming ``schedule``."""
    try:
        return schedules.build(config.schedule, steps_per_epoch=steps_per_epoch, global_batch=config.data.global_batch)
    except ValueError as error:
        raise UserError(str(error)) from None


def parse_config(path: str | Path, tree: dict[str, Any]) -> RunConfig:
    """Check the tree of a recipe; ``path`` is named in errors. A section left empty has its defaults."""
    given = {key: value for key, value in tree.items() if value is not None or not _is_section(_kind(key))}
    try:
        config = RunConfig.model_validate(given)
    except ValidationError as error:
        raise UserError(f"{path}: {_describe(error)}") from None
    _check_words(path, config)
    return config


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kind(key: str) -> Any:
    """Return the type of the dotted ``key``; None where there is no such key."""
    kind: Any = RunConfig
    for part in key.split("."):
        field = kind.model_fields.get(part) if _is_section(kind) else None
        if field is None:
            return None
        kind = field.annotation
    return kind


def _is_text(key: str) -> bool:
    kind = _kind(key)
    return kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))


def _describe(error: ValidationError) -> str:
    """Say the first problem in one line."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}: {_suggest(problem['loc'])}{more}"
    if problem["type"] == "missing":
        return f"key {key} is missing{more}"
    words = in_words(problem)
    if not key:  # about several keys, which the words name
        return f"{words}{more}"
    if isinstance(problem["input"], Mapping):  # about several keys of one section
        return f"{key}: {words}{more}"
    value = repr(problem["input"])
    shown = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
    return f"{key}={shown}: {words[0].lower()}{words[1:]}{more}"


def _suggest(location: tuple[int | str, ...]) -> str:
    """Name the keys that may have been meant, as they are written: of the same section, else one of that very name."""
    *parents, word = map(str, location)
    beside = {key: ".".join([*parents, key]) for key in _keys_beside(location)}
    near = [beside[key] for key in get_close_matches(word, beside, cutoff=0.5)]
    near = near or [key for key, _ in flat(RunConfig(schedule={}).model_dump()) if key.endswith(f".{word}")]
    return f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(sorted(beside.values()))}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    section: Any = RunConfig
    for part in location[:-1]:
        if isinstance(part, str):  # else a place in a list of sections
            found = section.model_fields[part].annotation
            section = next((one for one in get_args(found) if hasattr(one, "model_fields")), found)
    return list(section.model_fields)


def _check_words(path: str | Path, config: RunConfig) -> None:
    """Refuse what can be no name of a file or module on any system, and numbers that no weight can hold."""
    for key, value in flat(config.model_dump()):
        if any(isinstance(one, float) and one != 0 and not TINY <= abs(one) <= FLOAT32_MAX for one in _leaves(value)):
            raise UserError(f"{path}: {key}={value!r}: must be a finite number that float32 can hold")
        if isinstance(value, str):
            try:
                none = "\0" in value or max(len(os.fsencode(part)) for part in value.split("/")) > 255
            except UnicodeEncodeError:  # half of a pair of UTF-16
                none = True
            if none:
                words = "a name must not contain NUL, an invalid character or more than 255 bytes between slashes"
                raise UserError(f"{path}: {key}={value!r}: {words}")


def _leaves(value: object) -> Iterable[object]:
    """Yield what is in ``value``, however deep in lists and mappings."""
    if isinstance(value, list | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(one)
    else:
        yield value


def _check_model(path: str | Path, options: ModelConfig) -> None:
    if is_reference(options.name):
        return
    try:
        models.resolve(options.name, num_classes=10, in_channels=3, **options.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: model: {error}") from None


def _check_schedule(path: str | Path, config: RunConfig) -> None:
    """Refuse a bad schedule before anything starts; of one in epochs, whose length only the data knows, what is wrong
    whatever that is."""
    if _counts_in_epochs(config.schedule) and "steps_per_epoch" not in config.schedule:
        if (mistake := _mistake(config, 1)) and mistake == _mistake(config, 100):
            raise UserError(f"{path}: {mistake}")
        return
    try:
        schedule = read_schedule(config, None)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_steps("profile", config.profile.steps, schedule.total_steps)
    if not _counts_in_epochs({"steps": config.snapshots.steps}):
        clock = Clock(None, total=schedule.total_steps)
        check_steps("snapshots", in_updates(config.snapshots, clock, "snapshots.").steps, schedule.total_steps)


def _mistake(config: RunConfig, steps_per_epoch: int) -> str:
    try:
        read_schedule(config, steps_per_epoch)
    except UserError as error:
        return str(error)
    return ""


def _counts_in_epochs(tree: Mapping[str, Any]) -> bool:
    """Whether a value in ``tree`` is a duration in epochs."""
    values = [one for _, value in flat(tree) for one in (value if isinstance(value, list) else [value])]
    return any(isinstance(value, str) and re.fullmatch(r".*\bepochs?\s*", value) for value in values)


def check_steps(section: str, steps: Iterable[int], total_steps: int) -> None:
    """Refuse ``steps`` of a section that the run never reaches."""
    if late := [step for step in steps if step >= total_steps]:
        raise UserError(f"{section}.steps={list(steps)}: the run makes updates 0 to {total_steps - 1}, not {late[0]}")
