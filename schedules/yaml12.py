"""YAML as recipes are written in: the core types of YAML 1.2, plain values only.

It stands here, and not with what reads the whole recipe, because ``python -m schedules`` reads one, too, and this
folder is made to be copied alone.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

DEEPEST = 50
"""Levels of keys and lists within each other; what walks through the values may go one level deeper for each."""

# The core schema of YAML 1.2, https://yaml.org/spec/1.2.2/#103-core-schema. Of YAML 1.1, which PyYAML reads, this
# leaves out all that surprises: 010 as eight, 1:30 as ninety, on and no as true and false, dates.
_CORE = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class Loader(yaml.SafeLoader):
    """The safe loader with the types of YAML 1.2; a key given twice, aliases, and what is nested too deep are refused.

    Aliases can make a value that holds itself, or one of a few lines that unfolds to gigabytes.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor} is not allowed", event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEEPEST} deep", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > 24:
        raise yaml.constructor.ConstructorError(None, None, f"{text[:9]}… has {len(text)} digits", node.start_mark)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class Dumper(yaml.SafeDumper):
    """Puts quotation marks around text that YAML 1.1 or 1.2 reads as something else."""


Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _CORE.items():
    for _side in (Loader, Dumper):
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(rf"^(?:{_pattern})$"),
            ["" if sign == "\0" else sign for sign in _first],
        )
Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse(text: str) -> object:
    """Return the value that ``text`` holds.

    Raises:
        ValueError: for what is no such YAML; the message begins with the line, ", line 3: not valid YAML: …".
    """
    try:
        return yaml.load(text, Loader=Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise ValueError(f"{where}: not valid YAML: {' '.join(str(problem).split())}") from None
