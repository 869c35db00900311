"""One list of packages, for what ranks compare, what a resumed run is told, the preflight and a model's card."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from tests.jobs import ROOT, Tool
from train.runtime import packages

machine = Tool("train.preflight.machine")


def dependencies() -> set[str]:
    """The names in pyproject.toml, read otherwise than by the code."""
    lines = (ROOT / "pyproject.toml").read_text().split("dependencies = [", 1)[1].split("\n]", 1)[0].splitlines()
    return {re.split(r"[<>=]", line.strip().strip('"'))[0] for line in lines if line.strip()}


def test_every_dependency_is_compared_unless_it_only_shows() -> None:
    assert len(dependencies()) > 10
    assert packages.required().keys() == {"python", *dependencies()}
    assert set(packages.ONLY_SHOW) < dependencies()
    found = packages.versions()
    assert found.keys() == {"python", *dependencies()} - set(packages.ONLY_SHOW)
    for name, version in found.items():
        assert version != "absent" and machine.fits(version, packages.required()[name]), name


def test_without_a_clone_the_list_is_what_was_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installer writes it: limits in its own order, and the extras beside the rest."""
    in_a_clone = packages.required()
    swapped = {name: ",".join(reversed(limits.split(","))) for name, limits in in_a_clone.items()}
    lines = ["Metadata-Version: 2.1", "Name: ours", "Version: 1", f"Requires-Python: {swapped.pop('python')}"]
    lines += [f"Requires-Dist: {name}{limits}" for name, limits in swapped.items()]
    lines.append('Requires-Dist: pytest<10,>=9; extra == "test"')
    (tmp_path / "ours-1.dist-info").mkdir()
    (tmp_path / "ours-1.dist-info" / "METADATA").write_text("\n".join(lines) + "\n")
    (tmp_path / "ours-1.dist-info" / "top_level.txt").write_text("train\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "PYPROJECT", tmp_path / "none")
    found = packages.required()
    assert found.keys() == in_a_clone.keys()
    for name in found:
        assert machine.in_words(found[name]) == machine.in_words(in_a_clone[name])


def test_opencv_has_four_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "opencv-python":
            raise metadata.PackageNotFoundError(name)
        return "4.11.0.86"

    monkeypatch.setattr(metadata, "version", version)
    assert packages.version("opencv-python-headless") == "4.11.0.86"
    assert packages.version("simplejpeg") is None
    assert packages.versions()["simplejpeg"] == "absent"
