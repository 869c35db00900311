"""Real jobs of two ranks through msrun, on a task that only meets and ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.conftest import RECIPE, Checkout

pytestmark = pytest.mark.msrun


def test_a_job_from_another_folder(checkout: Checkout, tmp_path: Path) -> None:
    """Paths are the user's, relative to the working directory; variables of a surrounding cluster are dropped."""
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong train')")
    environment = checkout.environment(
        RANK_TABLE_FILE="/cluster.json", MS_NODE_ID="7", RANK_ID="7", MS_ROLE="MS_WORKER"
    )
    arguments = ("--ranks", "2", "--config", str(checkout.root / RECIPE), "name=trial")
    done = checkout.run("local.sh", *arguments, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    lines = [f"ready: {sys.prefix}, RANK_TABLE_FILE=None", "", "# One table", "", "| t |", "|---|", "| 5 |"]
    assert done.stdout.splitlines() == lines
    assert "launch: the whole comparison: runs/trial/comparison/comparison.md\n" in done.stderr
    logs = {path.name for path in (tmp_path / "runs" / "trial" / "logs").iterdir()}
    assert logs == {"msrun.log", "scheduler.log", "worker_0.log", "worker_1.log"}
    assert checkout.processes() == []


def test_the_printed_command_is_the_job(checkout: Checkout) -> None:
    command = checkout.local("--dry-run").stdout
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=checkout.root,
        env=checkout.environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert f"ready: {sys.prefix}" in done.stdout


def test_a_rank_that_fails(checkout: Checkout) -> None:
    done = checkout.local("end=error")
    assert done.returncode == 1
    assert "launch: rank 1 failed (exit code 1); the last lines of runs/run/logs/worker_1.log:\n" in done.stderr
    assert done.stderr.endswith("RuntimeError: the loss is not finite\n")
    assert checkout.processes() == []


def test_a_mistake_that_only_a_rank_can_find(checkout: Checkout) -> None:
    """The logs of an earlier attempt that never became a run are kept."""
    logs = checkout.root / "runs" / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker_1.log").write_text("earlier")
    done = checkout.local("end=refuse")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: rank 1: no data set here"
    assert not re.search("^(Traceback|launch: rank)", done.stderr, re.MULTILINE)
    assert (logs / "earlier-1" / "worker_1.log").read_text() == "earlier"
    assert checkout.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_job_leaves_no_process_behind(checkout: Checkout, number: signal.Signals) -> None:
    command = checkout.command("local.sh", "--ranks", "2", "--config", RECIPE, "end=hang")
    process = subprocess.Popen(
        command,
        cwd=checkout.root,
        env=checkout.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("ready")
        assert len(checkout.processes()) == 4  # the launcher, msrun's scheduler and two ranks
    finally:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.endswith(f"launch: {number.name}: stopping 2 ranks\n")
    assert checkout.processes() == []
