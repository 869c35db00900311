"""What a run is made with: the packages, by one list, the dependencies in ``pyproject.toml``; and its source."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
OWN_PACKAGES = ("train", "models", "schedules")
ONLY_SHOW = ("matplotlib", "tensorboard", "tqdm")
"""What these draw is looked at; neither a weight nor a figure depends on it."""
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
"""Four names of one package: any of them serves as the first."""


def required() -> dict[str, str]:
    """Return the versions that are allowed, as ">=1.25,<2", of Python and of each package, by its name.

    Those of ``pyproject.toml`` in a clone, else those that were installed with us.
    """
    if PYPROJECT.is_file():
        text = PYPROJECT.read_text(encoding="utf-8")
        python = re.findall(r'^requires-python = "(.*)"', text, re.M)
        listed = re.findall(r"^dependencies = \[$(.*?)^\]", text, re.M | re.S)
        needed = re.findall(r'^\s*"(.*?)"', listed[0], re.M)
    else:
        ours = metadata.distribution(metadata.packages_distributions()[__name__.partition(".")[0]][0])
        python = [ours.metadata["Requires-Python"]]
        needed = [one for one in ours.requires or [] if "extra" not in one]
    allowed = dict(re.match(r"([\w.-]+)\s*(.*)", one).groups() for one in needed)  # type: ignore[union-attr, misc]
    return {"python": python[0], **allowed}


def version(name: str) -> str | None:
    """Return the version of "python" or of a package; None where it is not installed."""
    if name == "python":
        return platform.python_version()
    for known_as in OPENCV if name == OPENCV[0] else (name,):
        try:
            return metadata.version(known_as)
        except metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run's weights or figures may depend on."""
    return {name: version(name) or "absent" for name in required() if name not in ONLY_SHOW}


def file_of(module: str) -> Path | None:
    """Return the file of a module, of a package its ``__init__.py``; None: none is found. Nothing is imported."""
    first, *below = module.split(".")
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(first)
        places = [Path(place, *below) for place in (found and found.submodule_search_locations) or ()]
        files = [file for place in places for file in (place / "__init__.py", place.with_name(f"{place.name}.py"))]
        files += [Path(found.origin)] if found and found.origin and not below else []
        return next((file.resolve() for file in files if file.is_file()), None)
    return None


def sources(modules: Iterable[str]) -> dict[str, str]:
    """Return a digest of our own source, and of each of the user's ``modules``, by what it is of: all ranks must run
    the same. A module that cannot be found is refused where it is imported."""
    found = {}
    for module in sorted({*OWN_PACKAGES, *modules}):
        if file := file_of(module):
            files = sorted(file.parent.rglob("*.py")) if module in OWN_PACKAGES else [file]
            digest = hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()[:16]
            found[f"the source of {module}"] = digest
    return found
