"""The text of a recipe: YAML by the safe loader, and ``key=value`` arguments laid over it."""

from __future__ import annotations

import re
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


def apply_override(tree: dict[str, Any], argument: str) -> None:
    """Set ``a.b=value`` in ``tree``; the value is read as YAML, an empty one stays empty text.

    Raises:
        UserError: when it is not written as key=value, or a key above it holds a value.
    """
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise UserError(f"argument {argument!r}: expected key=value, e.g. seed=2 or schedule.lr_max=0.2")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"argument {argument!r}: {parent} holds a value, not keys")
        node = child
    node[leaf] = _parse_yaml(text, f"argument {argument!r}") if text else ""


class _Loader(yaml.SafeLoader):
    """The safe loader, with 1e-4 read as a number (as in YAML 1.2); a key given twice and aliases are refused.

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


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse_yaml(text: str, origin: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise UserError(f"{origin}{where}: not valid YAML: {' '.join(str(problem).split())}") from None
