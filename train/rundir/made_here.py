"""Which runs this user has trained here with modules of his own, so that these may be imported again unasked.

What stands in a run's folder can say anything. So it is remembered outside, where no other user can write: a run
trusts a module only where this user has trained it, in this place, with the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

from train.runtime.private import private_folder

FILE = "made-here"


def remember(run_dir: Path, references: Iterable[str]) -> None:
    """Note that this user trains ``run_dir`` with ``references`` ("module:name"); where that cannot be, --trust-code
    will be asked for."""
    with suppress(OSError):
        known = private_folder() / FILE
        lines = known.read_text().split() if known.is_file() else []
        new = sorted({token for one in references if (token := _token(run_dir, one))} - set(lines))
        if new:
            with known.open("a") as file:
                file.write("".join(f"{token}\n" for token in new))


def made_here(run_dir: Path, reference: str) -> bool:
    """Whether :func:`remember` was told so, and the module's file is the same. Nothing is imported."""
    try:
        return _token(run_dir, reference) in (private_folder() / FILE).read_text().split()
    except OSError:
        return False


def _token(run_dir: Path, reference: str) -> str:
    file = _file_of(reference.partition(":")[0])
    if file is None:
        return ""
    said = [str(run_dir.resolve()), reference, str(file), hashlib.sha256(file.read_bytes()).hexdigest()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _file_of(module: str) -> Path | None:
    """Return the file of a module; unlike ``importlib.util.find_spec``, without importing the packages above it."""
    spec, places = None, None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        if count > 1 and not places:
            return None
        with suppress(ImportError, ValueError):
            spec = PathFinder.find_spec(".".join(parts[:count]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return Path(spec.origin).resolve() if spec and spec.origin and Path(spec.origin).is_file() else None
