"""Which runs this user has trained here with modules of his own: :mod:`train.rundir.trust` imports these unasked.

What stands in a run's folder can say anything. So it is remembered outside, where no other user can write: a run
trusts a module only where this user has trained it, in this place, with the same file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from train.runtime.files import private_folder
from train.runtime.keys import is_reference
from train.runtime.packages import file_of

FILE = "made-here"


def remember(run_dir: Path, references: Iterable[str]) -> None:
    """Note that this user trains ``run_dir`` with ``references`` ("module:name"); where that cannot be, --trust-code
    will be asked for."""
    with suppress(OSError):
        known = private_folder() / FILE
        lines = known.read_text().split() if known.is_file() else []
        new = sorted({note for one in references if (note := note_of(run_dir, one))} - set(lines))
        if new:
            with known.open("a") as file:
                file.write("".join(f"{note}\n" for note in new))


def note_of(run_dir: Path, reference: str) -> str:
    """Return what is noted of a module, and of the file that it has now; empty where there is none."""
    file = file_of(reference.partition(":")[0])
    if file is None:
        return ""
    said = [str(run_dir.resolve()), reference, str(file), hashlib.sha256(file.read_bytes()).hexdigest()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


# What names modules that only a training imports, or is text in which a colon may stand.
_NOT_IMPORTED = {"hooks", "imports", "name", "runs_dir", "resume", "resume_changes", "snapshots", "schedule"}
_NOT_IMPORTED |= {"data.root", "model.init_from"}
# Classes of this package and of MindSpore, by the key that wants one. Not all of either, and nothing for another key:
# with the arguments that a run gives them some load a graph or a library.
_HARMLESS = {
    "optimizer.name": re.compile(
        r"mindspore\.nn:(ASGD|Ada\w+|FTRL|LARS|Lamb|LazyAdam|Momentum|ProximalAdagrad|RMSProp|Rprop|SGD|Thor)"
    ),
    "step.loss": re.compile(r"mindspore\.nn:\w*(Loss|Entropy|EntropyWithLogits)"),
    "evaluate.metrics": re.compile(r"train\.step\.metrics:[A-Z]\w*"),
}


def references(tree: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys and values of a configuration that may be "module:name" of anybody, wherever they stand."""
    if key in _NOT_IMPORTED:
        return
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from references(name, key)
            yield from references(value, f"{key}.{name}" if key else name)
    elif isinstance(tree, list):
        for value in tree:
            yield from references(value, key)
    elif isinstance(tree, str) and is_reference(tree):
        harmless = _HARMLESS.get(key)
        if harmless is None or not harmless.fullmatch(tree):
            yield key, tree
