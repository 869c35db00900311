"""A checkout of the scripts under test, in a folder with a space in its name, with the stand-in as its task."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import machines
from tests.jobs import HANGS

LAUNCH = Path(__file__).parents[2] / "launch"
STAND_IN = Path(__file__).parent / "stand_in.py"
RECIPE = "train/recipes/digits_resnet20.yaml"
MASTER = machines.ADDRESSES[0]
"""Address of the first of ``two_machines``."""

# Like msrun: starts one shell script for each rank, in a session of its own, with its log, and leaves.
STARTER = """
import os, subprocess, sys
os.environ["STARTER"] = str(os.getpid())
ranks = []
for rank, script in enumerate(sys.argv[1:]):
    with open(f"worker_{rank}.log", "w") as log:
        ranks.append(subprocess.Popen(["bash", "-c", script], stdout=log, stderr=log, start_new_session=True))
os._exit(0)
"""
# Each script says how it ended, as a rank does.
SUPERVISE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import processes
import supervise
from pathlib import Path
supervise.SAME_REQUEST_SECONDS = float(os.environ.get("SAME_REQUEST_SECONDS", supervise.SAME_REQUEST_SECONDS))
scripts = ["trap 'printf ended\\\\ $? >/proc/$$/comm' EXIT; " + script for script in sys.argv[3:]]
processes.outlive_kill()
supervisor = supervise.Supervisor(Path(), range(len(scripts)), supervise.StopRequest(), scheduler=False)
code = supervisor.run([sys.executable, "-c", sys.argv[2], *scripts], os.environ)
supervise.show(f"left behind: {processes.children()}", supervise.STDOUT)
sys.exit(code)
"""
NOTHING_LEFT = "left behind: []\n"


class Checkout:
    """A folder with ``launch/`` and a ``train`` package; its scripts run in the tests' own environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mark = f"LAUNCH_TEST_ROOT={root}"  # every process of a job inherits it
        (root / "train" / "recipes").mkdir(parents=True)
        (root / RECIPE).touch()
        (root / "train" / "__init__.py").touch()
        shutil.copy(STAND_IN, root / "train" / "__main__.py")
        shutil.copytree(LAUNCH, root / "launch", ignore=shutil.ignore_patterns("__pycache__"))

    def environment(self, **variables: str) -> dict[str, str]:
        # Not sys.executable's real path: the environment's interpreter is a link.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        name, _, value = self.mark.partition("=")
        return {**os.environ, "PATH": path, "ACTIVE_ENVIRONMENT": "1", name: value, **variables}

    def command(self, script: str, *arguments: str) -> list[str]:
        return ["bash", str(self.root / "launch" / script), *arguments]

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            cwd=cwd or self.root,
            env=environment or self.environment(),
            capture_output=True,
            text=True,
            timeout=HANGS,
        )

    def local(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(**variables)
        return self.run("local.sh", "--ranks", "2", "--config", RECIPE, *arguments, environment=environment)

    def processes(self) -> list[str]:
        """Return the command lines of all living processes that were started from here."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_text())
            except OSError:  # ended meanwhile, or another user's
                continue
        return found


@contextlib.contextmanager
def start(folder: Path, *scripts: str, starter: str = STARTER, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Supervise ``scripts``, one for each rank, that ``starter`` starts."""
    command = [sys.executable, "-c", SUPERVISE, str(LAUNCH), starter, *scripts]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env={**os.environ, **variables}, **pipes) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    yield Checkout(tmp_path / "check out")


@pytest.fixture(scope="module")
def two_machines() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them, ``MASTER`` and another address; yields their names."""
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(machines.two_machines())
        except machines.Refused as error:
            pytest.skip(f"needs ip (iproute2) and the right to make network namespaces (root): {error}")
        yield names
