"""The border: each tool can be deleted with what belongs to it, and what is left is whole, collects and trains."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import HANGS, ROOT, environment, msrun_command

COMPARISON = ("train/comparison", "tests/train/comparison")
COMPARE_RUNS = ("train/compare_runs.py", "tests/train/test_compare_runs.py")
PREDICT = ("train/predict.py", "models/mindir.py")
EXPORT = ("train/export.py", "tests/train/test_export.py")
SCHEDULES = ("schedules/__main__.py", "schedules/tables.py", "schedules/source.py", "tests/schedules/test_command.py")
TOOLS = {
    "predict": PREDICT,
    "export": EXPORT,
    # Both are made of it.
    "the saved model as a function": ("train/run/trained.py", *PREDICT, *EXPORT),
    "score": ("train/score.py",),
    "compare_runs": COMPARE_RUNS,
    # What puts runs side by side reads them as the comparison does.
    "comparison": (*COMPARISON, *COMPARE_RUNS),
    "preflight": ("train/preflight", "tests/train/preflight", "launch/preflight.sh"),
    "dryrun": ("train/dryrun", "tests/train/dryrun"),
    "new": ("train/new.py", "tests/train/test_adapting.py"),
    "the schedules' command": SCHEDULES,
    # Both draw with it.
    "the pictures of a schedule": ("schedules/plot.py", *SCHEDULES, *COMPARISON, *COMPARE_RUNS),
    "the models' command": ("models/__main__.py", "tests/models/test_command.py"),
    "the page of keys": ("train/recipe/reference.py", "tests/train/recipe/test_reference.py"),
}
"""By tool what is deleted with it; its entry points in pyproject.toml are the lines that name its module."""
CASES = [(name,) for name in TOOLS] + [tuple(TOOLS)]
MOST_CORE_LINES = 13_629
"""Of Python outside tests/, launch/ and the tools: what somebody who takes the template home has to know. To be lowered
with every change that makes it smaller; the goal is 11,500."""
SMALL = ["model.options={depths: [1, 1, 1]}", "data.image_size=8", "schedule.warmup=1", "schedule.total=3"]
SMALL += ["snapshots.steps=[1]", "snapshots.layers=[fc.weight]", "runs_dir=runs", "name=trial"]


def delete(copy: Path, tools: tuple[str, ...]) -> None:
    deleted = dict.fromkeys(place for tool in tools for place in TOOLS[tool])
    for place in deleted:
        path = copy / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    modules = [place.removesuffix(".py").replace("/", ".") for place in deleted]
    project = copy / "pyproject.toml"
    lines = project.read_text(encoding="utf-8").splitlines(keepends=True)
    project.write_text("".join(line for line in lines if not any(f'"{module}' in line for module in modules)))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    left_out = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info", "build", "dist")
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=left_out))


def run(copy: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=copy,
        env={**environment(), "PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.msrun
@pytest.mark.parametrize(
    "tools", [pytest.param(c, marks=[] if len(c) > 1 else pytest.mark.slow, id="+".join(c)) for c in CASES]
)
def test_without_a_tool_the_rest_is_whole(tools: tuple[str, ...], copy: Path) -> None:
    delete(copy, tools)
    collected = run(copy, sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    assert int(re.findall(r"(\d+) tests? collected", collected)[-1]) > 1000
    for module in re.findall(r'^[\w-]+ = "([\w.]+):main"$', (copy / "pyproject.toml").read_text(), re.M):
        assert (copy / f"{module.replace('.', '/')}.py").is_file(), f"{module} is offered and not there"

    recipe = "train/recipes/digits_resnet20.yaml"
    job = msrun_command(2, ["-m", "train", "--config", recipe, *SMALL], copy / "logs")
    run(copy, *job)
    trained = copy / "runs/trial"
    assert len(list((trained / "snapshots").glob("*.npz"))) == 2 and list((trained / "checkpoints").iterdir())
    assert (trained / "comparison/comparison.md").exists() == (copy / "train/comparison").exists()


def test_the_core_stays_small() -> None:
    tools = [ROOT / place for places in TOOLS.values() for place in places]
    outside = [ROOT / "tests", ROOT / "launch", *tools]
    files = [
        path
        for path in ROOT.rglob("*.py")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        and not any(path.is_relative_to(place) for place in outside)
    ]
    counted = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert counted <= MOST_CORE_LINES and len(files) > 50, f"the core has {counted} lines"
