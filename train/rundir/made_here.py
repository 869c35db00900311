"""Which runs this user has trained here with modules of his own, so that these may be imported again unasked.

What stands in a run's folder can say anything. So it is remembered outside, where no other user can write: a run
trusts a module only where this user has trained it, in this place, with the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from train.runtime.files import private_folder
from train.runtime.packages import file_of

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
    file = file_of(reference.partition(":")[0])
    if file is None:
        return ""
    said = [str(run_dir.resolve()), reference, str(file), hashlib.sha256(file.read_bytes()).hexdigest()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
