"""Real jobs of two ranks through msrun, on a task that only meets and ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import HANGS, RECORDED, SMALL
from tests.launch.conftest import LAUNCH, MASTER, RECIPE, Checkout

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


def test_the_quickstart(tmp_path: Path, checkout: Checkout) -> None:
    """The real one, with a small network and few updates; a second one stands beside it."""
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "config.yaml").touch()
    done = subprocess.run(
        ["bash", str(LAUNCH / "quickstart.sh"), *SMALL, *RECORDED],
        cwd=tmp_path,
        env=checkout.environment(),
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    assert "launch: earlier runs are kept; this one is runs/quickstart-2\n" in done.stderr
    table = done.stdout[done.stdout.index("\n| ") :]
    assert re.search(r"\(t = 2\).*\n.*\(t = 7\)", table)
    for place in ("comparison/comparison.png", "metrics.jsonl", "checkpoints", "tensorboard"):
        assert f"runs/quickstart-2/{place}\n" in done.stderr
        assert (tmp_path / "runs" / "quickstart-2" / place).exists()


def test_the_printed_command_is_the_job(checkout: Checkout) -> None:
    command = checkout.local("--dry-run").stdout
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=checkout.root,
        env=checkout.environment(),
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    assert f"ready: {sys.prefix}" in done.stdout


def test_a_mistake_that_only_a_rank_can_find(checkout: Checkout) -> None:
    """The logs of an earlier attempt that never became a run are kept."""
    logs = checkout.root / "runs" / "run" / "logs"
    (logs / "earlier-2").mkdir(parents=True)  # the first was removed
    (logs / "worker_1.log").write_text("earlier")
    done = checkout.local("end=refuse")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: rank 1: no data set here"
    assert not re.search("^(Traceback|launch: rank)", done.stderr, re.MULTILINE)
    assert (logs / "earlier-3" / "worker_1.log").read_text() == "earlier"
    assert checkout.processes() == []


def test_a_killed_rank_and_a_restart(checkout: Checkout) -> None:
    done = checkout.local("end=killed", "--max-restarts", "3")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if re.match("launch: re|launch: rank", line)]
    log = "runs/run/logs/worker_1.log"
    assert said == [
        f"launch: rank 1 failed (killed by SIGKILL, as Linux does where memory is short); the last lines of {log}:",
        "launch: restart 1 of 3, from the last checkpoint",
    ]
    assert (checkout.root / "runs" / "run" / "logs" / "earlier-1" / "worker_1.log").exists()


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
        assert len(checkout.processes()) == 5  # the launcher and its child, msrun's scheduler and two ranks
    finally:
        process.send_signal(number)
        _, err = process.communicate(timeout=HANGS)
    assert process.returncode == 128 + number
    assert err.endswith(f"launch: {number.name}: stopping 2 ranks\n")
    assert checkout.processes() == []


@pytest.mark.slow
def test_two_nodes(checkout: Checkout, two_machines: list[str]) -> None:
    arguments = f"--nodes 2 --ranks 1 --master {MASTER} --config {RECIPE} name=trial".split()
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", machine, *checkout.command("node.sh", "--node-rank", str(node), *arguments)],
            cwd=checkout.root,
            env=checkout.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node, machine in enumerate(two_machines)
    ]
    try:
        outputs = [node.communicate(timeout=HANGS) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert outputs[0][0].startswith("ready: ") and outputs[1][0] == ""
    logs = checkout.root / "runs" / "trial" / "logs"
    assert (logs / "node-0" / "worker_0.log").exists() and (logs / "node-1" / "worker_1.log").exists()
    assert checkout.processes() == []
