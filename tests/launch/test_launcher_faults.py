"""What happens to the processes around the ranks: the launcher, and msrun's scheduler."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.runs import finish, processes_of, start, steps_saved, wait_for_lines
from train.checkpoint.saved import load

pytestmark = pytest.mark.msrun


def test_a_stopped_scheduler_ends_the_job_before_the_ranks_crash(tmp_path: Path) -> None:
    with start(tmp_path, "frozen", "schedule.total=2000", ranks=2) as job:
        wait_for_lines(job, tmp_path / "frozen", 10)
        os.kill(scheduler_of(tmp_path / "frozen"), signal.SIGSTOP)
        done = finish(job, tmp_path / "frozen")
    assert done.code == 6 and "Traceback" not in done.logs[0]
    assert done.logs[0].splitlines()[-1].startswith("error: scheduler: stopped (SIGSTOP) for 8 s")
    load(tmp_path / "frozen" / "checkpoints" / f"step-{steps_saved(tmp_path / 'frozen')[-1]:08d}")


def scheduler_of(run_dir: Path) -> int:
    """Return the process id of msrun's scheduler."""
    (pid,) = [pid for pid in processes_of(run_dir) if b"MS_ROLE=MS_SCHED" in Path(f"/proc/{pid}/environ").read_bytes()]
    return pid
