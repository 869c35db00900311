"""The text of a recipe: YAML by the safe loader, and ``key=value`` arguments laid over it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from train.errors import UserError


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: when it is missing, unreadable or something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; recipes are in train/recipes/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--config {path}: cannot be read as text: {getattr(error, 'strerror', None) or error}"
        ) from None
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
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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


class _Loader(yaml.SafeLoader):
    """The safe loader with the types of YAML 1.2; a key given twice and aliases are refused.

    Aliases can make a value that holds itself, or one of a few lines that unfolds to gigabytes.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor} is not allowed", event.start_mark)
        return super().compose_node(parent, index)

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


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Puts quotation marks around text that YAML 1.1 or 1.2 reads as something else."""


_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _CORE.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(rf"^(?:{_pattern})$"),
            ["" if sign == "\0" else sign for sign in _first],
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def _parse_yaml(text: str, origin: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise UserError(f"{origin}{where}: not valid YAML: {' '.join(str(problem).split())}") from None
