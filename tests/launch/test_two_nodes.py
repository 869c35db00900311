"""Real training on two machines, which are two network namespaces with a cable between them: ``launch/node.sh`` twice.

They share the file system, as the nodes of a job share the run folder.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import finish_all, processes_of, require_equal, run, start_command
from tests.jobs import HANGS, Finished
from tests.launch.conftest import LAUNCH, MASTER

pytestmark = pytest.mark.msrun
ALL_CORES = ["--no-bind-core"]
"""As many for a rank here as there, or the last bits differ: both nodes are this machine."""


@contextmanager
def nodes(
    machines: Sequence[str], folder: Path, name: str, *settings: str, ranks: int = 1, **variables: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """The launchers of the small digits run with ``ranks`` ranks on each of ``machines``."""
    jobs = []
    try:
        for node, machine in enumerate(machines):
            place = ["--nodes", str(len(machines)), "--node-rank", str(node), "--master", MASTER, *ALL_CORES]
            command = ["ip", "netns", "exec", machine, "bash", str(LAUNCH / "node.sh"), "--ranks", str(ranks), *place]
            jobs.append(start_command(command, folder, name, *settings, **variables))
        yield jobs
    finally:
        for pid in processes_of(folder / name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for job in jobs:
            job.communicate()


def run_nodes(machines: Sequence[str], folder: Path, name: str, *settings: str, **options: Any) -> list[Finished]:
    with nodes(machines, folder, name, *settings, **options) as jobs:
        return [done.check() for done in finish_all(jobs, folder / name)]


@pytest.fixture(scope="module")
def one_node(two_machines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run to compare with; it asks for the machines too, so that where there are none it is not made."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, "one", ranks=2, launch=ALL_CORES).check()
    return folder / "one"


def test_two_nodes_train_what_one_node_does(two_machines: list[str], one_node: Path, tmp_path: Path) -> None:
    first, second = run_nodes(two_machines, tmp_path, "two")
    assert "validation top1" in first.logs[0] and "validation top1" not in second.logs[0]
    require_equal(tmp_path / "two", one_node)


@pytest.mark.slow
def test_two_ranks_on_each_node(two_machines: list[str], tmp_path: Path) -> None:
    run(tmp_path, "one", ranks=4, launch=ALL_CORES).check()
    run_nodes(two_machines, tmp_path, "two", ranks=2)
    require_equal(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node_timeout", "watchdog_timeout"),
    [(10, 1800), (60, 15)],
    ids=["the-framework-notices-first", "the-watchdog-notices-first"],
)
def test_a_dead_cable_ends_both_nodes_and_once_mended_the_run_goes_on(
    two_machines: list[str], one_node: Path, tmp_path: Path, node_timeout: int, watchdog_timeout: int
) -> None:
    settings = ("checkpoint.every=4", "resume=auto", f"watchdog.timeout={watchdog_timeout}")
    variables = {"MS_NODE_TIMEOUT": str(node_timeout), "FAULTS": "unplug:6:1"}
    with nodes(two_machines, tmp_path, "cut", *settings, **variables) as jobs:
        wait_for_file(tmp_path / "cut.unplug-6")
        began = time.monotonic()
        finished = finish_all(jobs, tmp_path / "cut")
    print(f"{time.monotonic() - began:.0f} s until both nodes had ended")
    for node, done in enumerate(finished):
        require_lost_network(node, done)
    subprocess.run(["ip", "-n", two_machines[1], "link", "set", "cable", "up"], check=True)
    first, second = run_nodes(two_machines, tmp_path, "cut", *settings, **variables)
    assert "continuing at update 4" in first.logs[0]
    assert "validation top1" in first.logs[0] and "validation top1" not in second.logs[0]
    require_equal(tmp_path / "cut", one_node)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node_timeout", "watchdog_timeout"),
    [(10, 1800), (60, 8)],
    ids=["the-framework-notices-first", "the-watchdog-notices-first"],
)
def test_a_cable_that_dies_before_the_first_exchange_ends_both_nodes_too(
    two_machines: list[str], tmp_path: Path, node_timeout: int, watchdog_timeout: int
) -> None:
    settings = ("imports=[tests.faults.at_start]", f"watchdog.timeout={watchdog_timeout}")
    variables = {"MS_NODE_TIMEOUT": str(node_timeout), "FAULTS": "unplug:-1:1"}
    with nodes(two_machines, tmp_path, "early", *settings, **variables) as jobs:
        finished = finish_all(jobs, tmp_path / "early")
    subprocess.run(["ip", "-n", two_machines[1], "link", "set", "cable", "up"], check=True)
    for node, done in enumerate(finished):
        require_lost_network(node, done)
    assert not (tmp_path / "early" / "config.yaml").exists()


def require_lost_network(node: int, done: Finished) -> None:
    assert done.code == 6, done.logs[0]
    last = done.logs[0].splitlines()[-1]
    assert re.match(f"error: (rank {node}|scheduler): no|error: rank {node}: other ranks", last) and "network" in last
    assert "Traceback" not in done.logs[0] and "C++" not in done.logs[0]


def wait_for_file(path: Path, timeout: float = HANGS) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
