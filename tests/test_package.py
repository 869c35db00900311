"""``pip install .`` brings everything that the commands need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.jobs import HANGS, ROOT

PACKAGES = ("schedules", "models", "train")


def files(folder: Path) -> set[str]:
    found = [path for package in PACKAGES for path in (folder / package).rglob("*")]
    return {str(path.relative_to(folder)) for path in found if path.suffix in (".py", ".yaml")}


def test_an_installed_copy_offers_the_same_commands(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        # A copy, since setuptools leaves its own files beside what it builds.
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=120)
    assert files(site) == files(ROOT)

    recipe = site / "train" / "recipes" / "digits_resnet20.yaml"
    for arguments in (
        ["train", "--config", str(recipe), "--print-config"],
        ["schedules", "show", str(recipe)],
        ["models"],
    ):
        subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=HANGS,
        )

    # Each command is offered by name too; in a folder where a train.py and a models.py lie it runs none of them.
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file in the working directory ran')")
    (installed,) = metadata.distributions(path=[str(site)])
    scripts = {point.name: point.value for point in installed.entry_points if point.group == "console_scripts"}
    modules = {target.partition(":")[0].removesuffix(".__main__") for target in scripts.values()}
    assert modules == {"schedules", "models", *commands_of_train()}

    def answer(script: str, option: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [site / "bin" / script, option],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=HANGS,
        )

    for script in ("resnet-train", "resnet-models", "resnet-schedules"):  # one of each package
        assert answer(script, "--version").stdout == f"{installed.version}\n", script
    for script in scripts:
        asked = answer(script, "--help")
        assert asked.returncode == 0 and asked.stdout.startswith("usage: "), (script, asked)


def commands_of_train() -> set[str]:
    """What a user starts as ``python -m``: not the dry run's own process, nor what makes a page of this repository."""
    found = [path for path in (ROOT / "train").rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found}
    return {name.removesuffix(".__main__") for name in names} - {"train.dryrun.worker", "train.recipe.reference"}
