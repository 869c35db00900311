"""The packages that a run is made with: one list, the dependencies in ``pyproject.toml``. None of them is imported."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
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


def fits(found: str, allowed: str) -> bool:
    """Whether a version lies within ``allowed``, which is written with ">=" and "<" alone."""
    limits = {sign: _numbers(number) for sign, number in re.findall(r"(>=|<)\s*([\d.]+)", allowed)}
    return limits[">="] <= _numbers(found) < limits["<"]


def in_words(allowed: str) -> str:
    limits = dict(re.findall(r"(>=|<)\s*([\d.]+)", allowed))
    return f"at least {limits['>=']} and below {limits['<']}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
