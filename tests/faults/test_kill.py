"""kill -9 of the whole job, again and again, at moments that nobody chose; and other faults drawn at random."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.runs import finish, lines_logged, processes_of, require_equal, run, start
from tests.jobs import ROOT
from train.checkpoint.disk import list_steps
from train.checkpoint.saved import load

pytestmark = [pytest.mark.msrun, pytest.mark.slow]
UPDATES = 240
SETTINGS = [f"schedule.total={UPDATES}", "evaluate.every=20"]


@pytest.mark.parametrize(("ranks", "kills"), [(1, 30), (2, 12)], ids=["1-rank", "2-ranks"])
def test_killed_at_random_moments(ranks: int, kills: int, tmp_path: Path) -> None:
    run(tmp_path, "whole", *SETTINGS, ranks=ranks).check()
    run_dir = tmp_path / "killed"
    rng = random.Random(ranks)
    in_save = 0
    for number in range(kills):
        background = f"checkpoint.background={'true' if number % 2 else 'false'}"
        job = start(tmp_path, "killed", *SETTINGS, "checkpoint.every=1", "resume=auto", background, ranks=ranks)
        with job:
            wait_for_random_moment(rng, job, run_dir)
            kill_all(job, run_dir)
        in_save += any((run_dir / "checkpoints").glob(".*"))
        for _, folder in list_steps(run_dir / "checkpoints"):
            load(folder)  # whoever kills, what stands there is whole
    with start(tmp_path, "killed", *SETTINGS, "resume=auto", ranks=ranks) as job:
        finish(job, run_dir).check()
    require_equal(run_dir, tmp_path / "whole", UPDATES)
    print(f"{kills} kills of {ranks} ranks, {in_save} of them while a checkpoint was being written or removed")
    assert in_save, "no kill came in the middle of a save: the test proves too little"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_no_fault_of_some_that_are_drawn_at_random_is_bad(tmp_path: Path) -> None:
    """Every kind of them; a campaign has more."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign", "--runs", "18", "--seed", "7", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_random_moment(rng: random.Random, job: subprocess.Popen[str], run_dir: Path) -> None:
    """Wait until up to 5 more updates are logged and some ms more; now and then, at most a time that may end before."""
    seconds = rng.uniform(0, 8) if rng.random() < 0.15 else 120
    goal = lines_logged(run_dir) + rng.randint(1, 5)
    began = time.monotonic()
    while job.poll() is None and time.monotonic() - began < seconds:
        # A run that continues cuts its log first, so the count may go down before it goes up.
        if time.monotonic() - began > 2 and lines_logged(run_dir) >= goal:
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))


def kill_all(job: subprocess.Popen[str], run_dir: Path) -> None:
    """Kill the launcher first, so that nobody is left to tidy up."""
    assert job.poll() is None, "the run ended before it could be killed: it needs more updates"
    job.kill()
    deadline = time.monotonic() + 20
    while pids := processes_of(run_dir):
        assert time.monotonic() < deadline
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    job.wait()
