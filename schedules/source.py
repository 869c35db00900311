"""Where the command takes a schedule from: a recipe, `key=value`, or a recipe changed by `key=value`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schedules import yaml12
from schedules.config import build
from schedules.errors import read_file
from schedules.schedule import Schedule


@dataclass(frozen=True)
class Source:
    """The part of a recipe that decides the schedule."""

    section: Mapping[str, object] = field(default_factory=dict)
    global_batch: object = None

    def changed(self, assignments: Sequence[str]) -> Source:
        """With `key=value`, `schedule.key=value` or `data.global_batch=value` on top; `key=null` removes a key.

        Raises:
            ValueError: something without an equals sign, or a value that is no YAML.
        """
        section, global_batch = dict(self.section), self.global_batch
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"{assignment}: neither a .yaml file nor key=value")
            value = _parse(text, assignment)
            if key in ("data.global_batch", "global_batch"):
                global_batch = value
            else:
                section[key.removeprefix("schedule.")] = value
        return Source(section, global_batch)

    def build(self, steps_per_epoch: int | None) -> Schedule:
        # count() in the builder checks the type of the global batch and names it.
        return build(self.section, steps_per_epoch=steps_per_epoch, global_batch=self.global_batch)  # type: ignore[arg-type]


def read(words: Sequence[str], base: Source | None = None) -> Source:
    """A source from the words of a command line: one recipe at most, and assignments on top.

    Without a recipe the assignments change `base`, an empty source unless given.

    Raises:
        OSError: the recipe cannot be read.
        ValueError: it is no recipe, or a word is not understood.
    """
    recipes = [word for word in words if "=" not in word and word.endswith((".yaml", ".yml"))]
    if len(recipes) > 1:
        raise ValueError(f"{' '.join(recipes)}: one recipe at a time; compare takes the second after --with")
    source = _recipe(recipes[0]) if recipes else base or Source()
    return source.changed([word for word in words if word not in recipes])


def _recipe(path: str) -> Source:
    content = _parse(read_file(path).decode("utf-8"), path)
    section = content.get("schedule") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(section, dict):
        raise ValueError(f"{path}: has no `schedule:` section")
    _import(content.get("imports") or [], path)
    data = content.get("data")
    return Source(section, data.get("global_batch") if isinstance(data, dict) else None)


def _import(names: object, path: str) -> None:
    """Import the modules that a recipe names, which may register kinds; an error inside one keeps its traceback."""
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str) or not name or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{path}: imports={name!r}: is not the name of a module, as package.module")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"{path}: imports={name!r}: no module {error.name!r}; is its folder on PYTHONPATH?"
            ) from None
        except SystemExit as left:  # a script's: nothing would be shown, and the exit code could be 0
            raise ValueError(f"{path}: imports={name!r}: ends with SystemExit({left.code!r})") from None


def _parse(text: str, where: str) -> object:
    try:
        return yaml12.parse(text)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
