"""Which modules that a stored run names may be imported: those that this user has trained it with here, or says so."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.recipe.read import override, parse_config
from train.recipe.sections import RunConfig
from train.rundir.folder import CHECKPOINTS, CONFIG_FILE, read_config
from train.rundir.made_here import FILE, note_of, references
from train.runtime.errors import UserError
from train.runtime.files import private_folder

TRUST_CODE_HELP = (
    "import the modules that the run names as its model, data, optimizer …: they can do anything on this machine"
)


def load_config_to_run(run_dir: Path, overrides: Iterable[str] = (), *, trust_code: bool = False) -> RunConfig:
    """Read back the configuration of a run whose model and data are wanted, with ``key=value`` laid over it.

    Raises:
        UserError: when the folder, not the overrides, names a module, and its code is not trusted.
    """
    stored = read_config(run_dir)
    tree = override(copy.deepcopy(stored), overrides)
    still_there = set(references(tree))
    _refuse([one for one in references(stored) if one in still_there], run_dir / CONFIG_FILE, trust_code)
    return parse_config(run_dir / CONFIG_FILE, tree)


def refuse_modules(stored: Mapping[str, Any], origin: Path, *, trust_code: bool) -> None:
    """Raise a :class:`UserError` where something that was read from ``origin`` names modules that would be imported.

    A file of a run may come from anywhere, and importing a module runs its code.
    """
    _refuse(list(references(stored)), origin, trust_code)


def _refuse(found: list[tuple[str, str]], origin: Path, trust_code: bool) -> None:
    place = origin.resolve().parents
    run_dir = place[2] if len(place) > 2 and place[1].name == CHECKPOINTS else place[0]
    for key, value in found if not trust_code else ():
        if not made_here(run_dir, value):
            raise UserError(
                f"{origin}: {key}={value!r} is code that may not be yours: the run was not "
                "trained in this place, or the module has changed since; if you trust it, --trust-code runs it"
            )


def made_here(run_dir: Path, reference: str) -> bool:
    """Whether :func:`remember` was told so, and the module's file is the same. Nothing is imported."""
    try:
        return note_of(run_dir, reference) in (private_folder() / FILE).read_text().split()
    except OSError:
        return False
