"""Compiled graphs that one process keeps for the next, and how they are known to be this user's own.

A kept graph is code: MindSpore believes its file, and a primitive in it may load a library. So they lie where no other
user can write, in one file a rank that begins with a digest of the rest; what is not exactly what was written is
compiled anew, and MindSpore never sees it. They do not lie in ``runs_dir``, which may be a copy of somebody else's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from train.runtime import distributed
from train.runtime.files import private_folder

Result = TypeVar("Result")
SUFFIX = ".graphs"
MOST_FILES = 64
_asked: dict[str, str] = {}
"""What the user has set ``MS_COMPILER_CACHE_ENABLE`` to."""


def turn_off() -> None:
    """Take the cache away from all graphs but those in :func:`kept_graphs`, before MindSpore is loaded: any other graph
    would be taken for one of an earlier process, whatever that was."""
    if (asked := os.environ.pop("MS_COMPILER_CACHE_ENABLE", None)) is not None:
        _asked["graphs"] = asked


def asked() -> bool:
    """Whether the user has set ``MS_COMPILER_CACHE_ENABLE=1``."""
    return _asked.get("graphs") == "1"


def place_of_graphs(compiled_in: object) -> Path | None:
    """Return what the files of kept graphs are to begin with, if the user has set ``MS_COMPILER_CACHE_ENABLE=1``; else,
    and where others could write there, None.

    MindSpore's cache does not notice changed constants: with one place for all, a run with another weight decay would
    go on with the old one. So each configuration gets a place of its own.

    Args:
        compiled_in: a JSON-able value that differs wherever a graph may differ.
    """
    if not asked():
        return None
    try:
        folder = private_folder(os.environ.get("MS_COMPILER_CACHE_PATH", ""))
    except OSError as error:
        if distributed.rank() == 0:
            print(f"note: compiled graphs are not kept: {error.filename}: {error.strerror}", flush=True)
        return None
    return folder / hashlib.sha256(json.dumps(compiled_in, sort_keys=True).encode()).hexdigest()[:16]


def with_kept_graphs(update: Callable[..., Result], place: Path | None) -> Callable[..., Result]:
    """Return ``update``, whose first call compiles what it needs, with the graphs kept at ``place``."""
    still_to_compile = [place] if place else []

    def call(*args: object) -> Result:
        with kept_graphs(still_to_compile.pop()) if still_to_compile else nullcontext():
            return update(*args)

    return call


@contextmanager
def kept_graphs(place: Path) -> Iterator[None]:
    """Let MindSpore take the graphs that are compiled in here from ``place``, or put them there where it has none.

    It tells them by their order in a process alone. So what stands in here must compile the same ones in the same order
    whenever it does, and all else of the process stays outside: an evaluation may come first or last, and what a hook
    or the comparison compiles depends on the run.
    """
    from mindspore.graph import api

    file = place.with_name(f"{place.name}.rank-{distributed.rank()}{SUFFIX}")
    try:
        folder = tempfile.TemporaryDirectory(dir=place.parent, prefix="compiling-", ignore_cleanup_errors=True)
    except OSError:  # the disk is full: that is no reason to train nothing
        yield
        return
    with folder:
        taken = _take(file, Path(folder.name))
        # To see what has changed MindSpore would read ``sys.argv[0]`` and what that imports: in the locale's encoding,
        # and it may be no file ("python -c"). The digest in ``place`` covers all that; one file without imports is
        # enough.
        api.entry_script_path = str(Path(__file__).with_name("__init__.py"))
        os.environ |= {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": folder.name}
        try:
            yield
        finally:
            os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"
        if not taken:
            with suppress(OSError):
                _keep(Path(folder.name), file)


def _take(file: Path, folder: Path) -> bool:
    """Unpack ``file`` into ``folder`` if it is what was written."""
    with suppress(OSError):
        content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            zipfile.ZipFile(io.BytesIO(content[32:])).extractall(folder)
            return True
    return False


def _keep(folder: Path, file: Path) -> None:
    """Write ``file`` from what MindSpore has left in ``folder``; the oldest of too many files go."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as into:
        for path in sorted(folder.rglob("*")):
            into.write(path, path.relative_to(folder))
    partial = folder / file.name
    partial.write_bytes(hashlib.sha256(packed.getvalue()).digest() + packed.getvalue())
    os.replace(partial, file)
    for old in sorted(file.parent.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)[:-MOST_FILES]:
        old.unlink(missing_ok=True)


def source_digest() -> str:
    """Return a digest of the files of all imported modules but Python's own and those in site-packages."""
    paths = sysconfig.get_paths()
    installed = tuple(
        f"{Path(paths[kind]).resolve()}{os.sep}" for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    )
    found = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or os.devnull).resolve()
        if file.is_file() and not str(file).startswith(installed):
            found.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    return found.hexdigest()
