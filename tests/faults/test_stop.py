"""Signals, a folder in use, a disk that refuses in the middle, a rank that hangs, a restart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import (
    finish,
    listening_addresses,
    metrics,
    processes_of,
    ranks_of,
    run,
    start,
    start_command,
    steps_saved,
    wait_for_lines,
)
from tests.jobs import RECORDED, alone, free_port, train_task
from train.checkpoint.saved import load
from train.runtime.errors import EXIT_STORAGE

pytestmark = pytest.mark.msrun
SILENT = "error: scheduler: no sign of life of rank 1 for 30 s (MS_NODE_TIMEOUT): "


def test_a_live_run_keeps_its_folder_and_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with start(tmp_path, "live", "schedule.total=500", "checkpoint.every=5", faults="hang:8:0") as job:
        wait_for_lines(job, tmp_path / "live", 9)  # 8 updates and an evaluation
        for resume, words in (("auto", f"is in use by process {job.pid} on "), ("never", "already holds a run")):
            other = start(tmp_path, "live", "schedule.total=500", f"resume={resume}")
            said, _ = other.communicate(timeout=120)
            assert other.returncode == 2 and words in said and "Traceback" not in said
        job.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(2)  # hangs: the update cannot be finished
        job.send_signal(signal.SIGTERM)
        done = finish(job, tmp_path / "live", timeout=20)
    assert done.code == 143 and "SIGTERM: stopping within two more updates" in done.logs[0]
    assert steps_saved(tmp_path / "live") == [5, 8]


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    """MindSpore's own handler makes a SIGTERM of it."""
    done = run(tmp_path, "stopped", "schedule.total=500", faults="interrupt:5:0")
    assert done.code == 143
    assert done.logs[0].splitlines()[-1] == "stopped by SIGTERM: state 7 is saved; resume=auto goes on from there"
    assert steps_saved(tmp_path / "stopped") == [7], (
        "asked in update 5, told with its result, which is read in update 6"
    )
    load(tmp_path / "stopped" / "checkpoints" / "step-00000007")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_closed_terminal_and_a_warning_of_a_scheduler_save_too(number: signal.Signals, tmp_path: Path) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("nohup(1) has started this")
    with start(tmp_path, "warned", "schedule.total=500") as job:
        wait_for_lines(job, tmp_path / "warned", 2)
        job.send_signal(number)
        done = finish(job, tmp_path / "warned")
    (last,) = steps_saved(tmp_path / "warned")
    assert done.code == 128 + number
    said = f"stopped by {number.name}: state {last} is saved; resume=auto goes on from there"
    assert done.logs[0].splitlines()[-1] == said


def test_all_ranks_end_when_one_cannot_save(tmp_path: Path) -> None:
    options = ("checkpoint.every=3", "checkpoint.background=true")
    done = run(tmp_path, "blocked", *options, ranks=2, faults="block-checkpoints:5:0")
    assert done.code == 5 and "Traceback" not in done.logs[0]
    assert "error: " in done.logs[0] and "checkpoints/step-00000006: cannot be written: " in done.logs[0]
    load(tmp_path / "blocked" / "moved" / "step-00000003")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB: two checkpoints fit, a third does not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs privileges")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("faults", ["", "fill-disk:5:0"], ids=["by-checkpoints", "by-others"])
def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(faults: str, small_disk: Path) -> None:
    done = run(small_disk, "full", "checkpoint.every=2", "evaluate.every=0", "checkpoint.keep=9", faults=faults)
    assert done.code == 5 and "Traceback" not in done.logs[0]
    assert "error: rank 0: " in done.logs[0] and "No space left on device" in done.logs[0]
    saved = steps_saved(small_disk / "full")
    assert saved
    for step in saved:
        load(small_disk / "full" / "checkpoints" / f"step-{step:08d}")


def test_a_folder_that_is_moved_behind_the_last_checkpoint_is_noticed_too(tmp_path: Path) -> None:
    done = alone(train_task(tmp_path, "run", *RECORDED, "hooks=[tests.faults.inject:MovesAway]"), tmp_path)
    assert done.code == EXIT_STORAGE
    assert f"{tmp_path}/run: No such file or directory; it was there when the run began" in done.logs[0]


def test_a_disk_that_fails_is_one_line_and_its_own_code(tmp_path: Path) -> None:
    """An I/O error on any file of the run, not only where checkpoints are written; the next start goes on."""
    done = run(tmp_path, "broken", "checkpoint.every=2", "evaluate.every=0", faults="break-disk:5:0")
    assert done.code == 5 and "Traceback" not in done.logs[0]
    assert re.search("^error: rank 0: .*Input/output error", done.logs[0], re.M), done.logs[0]
    assert steps_saved(tmp_path / "broken") == [2, 4]
    run(tmp_path, "broken", "resume=auto", "evaluate.every=0").check()


@pytest.mark.slow
def test_a_read_only_folder_is_told(small_disk: Path) -> None:
    run(small_disk, "first", "schedule.total=8", "checkpoint.every=4", "log.tensorboard=false").check()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name, resume in (("second", "never"), ("first", "auto")):
        done = run(small_disk, name, "schedule.total=8", f"resume={resume}")
        assert done.code == 2 and "Read-only file system" in done.logs[0] and "Traceback" not in done.logs[0]
    load(small_disk / "first" / "checkpoints" / "step-00000008")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["freeze", "hang"])
def test_a_rank_that_does_not_answer_is_named_and_ends_the_job(what: str, tmp_path: Path) -> None:
    """A main thread that hangs is missed by the other rank. SIGSTOP also silences the process's heartbeat to msrun's
    scheduler; whichever of the two misses it first ends the job."""
    began = time.monotonic()
    done = run(tmp_path, what, ranks=2, faults=f"{what}:6:1")
    print(f"{what}: {time.monotonic() - began:.0f} s from start to end")
    missed = "error: rank 0: other ranks did not answer in update 6; "
    assert done.code == 6
    assert missed in done.logs[0] or (what == "freeze" and SILENT in done.logs[0]), done.logs[0]


def test_the_watchdog_looks_before_the_first_update_too(tmp_path: Path) -> None:
    """Rank 1 hangs where the ranks have only just met."""
    options = ("imports=[tests.faults.at_start]", "watchdog.timeout=8")
    done = run(tmp_path, "early", *options, ranks=2, faults="hang:-1:1")
    assert done.code == 6
    said = "error: rank 0: no progress for 8 s (watchdog.timeout) before the first update; one of them is gone or hangs"
    assert done.logs[0].splitlines()[-1].startswith(said), done.logs[0]
    assert "in gather_bytes" in done.logs[0], "the traceback shows where it waits"


@pytest.mark.parametrize(("module", "code"), [("train", 6), pytest.param("train.preflight", 2, marks=pytest.mark.slow)])
def test_a_rank_that_meets_no_other_says_so_in_one_line(module: str, code: int, tmp_path: Path) -> None:
    scheduler = {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(free_port()), "MS_TOPO_TIMEOUT": "2"}
    worker = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "RANK_ID": "1", "MS_NODE_ID": "1"}
    with start_command([sys.executable, "-m", module], tmp_path, "alone", **scheduler, **worker) as job:
        done = finish(job, tmp_path / "alone")
    assert done.code == code and "Traceback" not in done.logs[0]
    place = f"127.0.0.1:{scheduler['MS_SCHED_PORT']}"
    words = "the ranks did not meet: were all started, and does every node reach msrun's scheduler at"
    assert f"{words} {place}?\n" in done.logs[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_silent_rank_is_named_by_the_scheduler_where_no_other_rank_waits_for_it(tmp_path: Path) -> None:
    done = run(tmp_path, "silent", ranks=2, faults="freeze:6:1,hang:6:0")
    assert done.code == 6
    assert done.logs[0].splitlines()[-1].startswith(SILENT)


@pytest.mark.slow
def test_the_watchdog_ends_a_rank_that_waits_for_ever(tmp_path: Path) -> None:
    done = run(tmp_path, "hangs", "watchdog.timeout=30", faults="hang:6:0")
    assert done.code == 6
    assert "error: rank 0: no progress for 30 s (watchdog.timeout) in update 6\n" in done.logs[0]
    assert "tests/faults/inject.py" in done.logs[0], "the traceback shows where it hangs"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kill", "freeze"])
def test_the_launcher_starts_again_from_the_last_checkpoint(what: str, tmp_path: Path) -> None:
    options = ("checkpoint.every=3", "watchdog.timeout=30")
    done = run(tmp_path, "again", *options, ranks=2, faults=f"{what}:8:1", launch=["--max-restarts", "1"]).check()
    assert "restart 1 of 1" in done.logs[0] and "continuing at update 8" in done.logs[0]
    assert [line["step"] for line in metrics(tmp_path / "again") if "train/loss" in line] == list(range(12))


@pytest.mark.slow
def test_ctrl_c_on_the_launcher_saves_on_all_ranks(tmp_path: Path) -> None:
    with start(tmp_path, "stopped", "schedule.total=2000", "checkpoint.every=100", ranks=2) as job:
        wait_for_lines(job, tmp_path / "stopped", 20)
        assert sorted(ranks_of(tmp_path / "stopped")) == [0, 1]
        assert listening_addresses(processes_of(tmp_path / "stopped")) == {"127.0.0.1"}, "nobody else can connect"
        os.kill(job.pid, signal.SIGINT)
        done = finish(job, tmp_path / "stopped")
    last = steps_saved(tmp_path / "stopped")[-1]
    assert done.code == 130 and f"stopped by SIGTERM: state {last} is saved" in done.logs[0]
    load(tmp_path / "stopped" / "checkpoints" / f"step-{last:08d}")
