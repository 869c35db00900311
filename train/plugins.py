"""Parts that a reader brings in his own file, named in the recipe as ``module:name``."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from train import device
from train.errors import UserError, near_matches


def load(reference: str, key: str) -> Any:
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
    # A module of the reader's may import MindSpore, which reads its environment while it loads.
    device.set_environment_defaults()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the module that was asked for: one that it imports in vain is a bug with a traceback.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{setting}: no module {error.name!r}; is its folder on PYTHONPATH?") from None
