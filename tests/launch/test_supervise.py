"""The supervisor with processes that start and end in a moment, where a MindSpore job would take long to come to it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import HANGS
from tests.launch.conftest import LAUNCH, NOTHING_LEFT, STARTER, SUPERVISE, start

# Two parts of scripts: a rank says who it is, and another waits until the supervisor has seen that rank's end.
CALL = "echo $$ >{0}.new; mv {0}.new {0}.pid; "
OUTLIVE = "until [ -e {0}.pid ]; do sleep 0.02; done; while kill -0 $(cat {0}.pid) 2>/dev/null; do sleep 0.02; done; "


def run(folder: Path, *scripts: str, starter: str = STARTER) -> tuple[int, str, str]:
    with start(folder, *scripts, starter=starter) as process:
        out, err = process.communicate(timeout=HANGS)
    return process.returncode, out, err


def test_rank_0_is_shown_to_its_last_line(tmp_path: Path) -> None:
    noise = "[INFO] DISTRIBUTED(4906,7ff56499b6c0,python):2026-11-22 [tcp_server.cc:314] Start] Event base dispatch"
    code, out, err = run(tmp_path, f"echo one; sleep 0.3; echo '{noise}'; printf two", "echo of rank 1")
    assert (code, out, err) == (0, f"one\ntwo\n{NOTHING_LEFT}", "")


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [("exit 7", 7, "exit code 7"), ("trap - EXIT; kill -SEGV $$", 139, "killed by SIGSEGV")],
)
def test_the_first_rank_that_fails_decides(tmp_path: Path, script: str, code: int, cause: str) -> None:
    """Rank 0, which fails when it is stopped, and rank 2, which fails later, do not."""
    stopped = "trap 'exit 9' TERM; sleep 600 & wait"
    later = "trap '' TERM; " + OUTLIVE.format(1) + "exit 8"
    scripts = (stopped, f"{CALL.format(1)} seq 1 30; {script}", later)
    lines = "".join(f"{number}\n" for number in range(11, 31))
    said = f"launch: rank 1 failed ({cause}); the last lines of worker_1.log:\n{lines}"
    assert run(tmp_path, *scripts) == (code, NOTHING_LEFT, said)


def test_a_failure_of_rank_0_is_not_shown_twice(tmp_path: Path) -> None:
    said = "launch: rank 0 failed (exit code 1); its last lines are above, all of them in worker_0.log\n"
    assert run(tmp_path, "echo a reason; exit 1", "sleep 600") == (1, f"a reason\n{NOTHING_LEFT}", said)


@pytest.mark.parametrize("first", [0, 1])
def test_a_mistake_of_the_user_is_one_line(tmp_path: Path, first: int) -> None:
    """All ranks end with the same message; whoever is first, it is shown once."""
    parts = {first: CALL.format(first), 1 - first: "trap '' TERM; " + OUTLIVE.format(first)}
    scripts = [f"{parts[rank]} echo error: rank {rank}: no such data >&2; exit 2" for rank in (0, 1)]
    code, out, err = run(tmp_path, *scripts)
    assert code == 2
    assert out.replace(NOTHING_LEFT, "") + err == f"error: rank {first}: no such data\n"


@pytest.mark.parametrize("code", [0, 2])
def test_what_a_rank_says_of_its_end_outranks_a_crash_after_it(tmp_path: Path, code: int) -> None:
    crash = f"echo error: this >&2; printf 'ended {code}' >/proc/$$/comm; trap - EXIT; kill -SEGV $$"
    said = "error: this\n" if code else ""
    assert run(tmp_path, "sleep 0.3" if code == 0 else "sleep 600", f"sleep 0.3; {crash}") == (code, NOTHING_LEFT, said)


def test_a_rank_that_leaves_with_0_in_the_middle_ends_the_job(tmp_path: Path) -> None:
    said = "launch: rank 1 left the job with exit code 0 before its end: something in it called os._exit or C's exit\n"
    assert run(tmp_path, "sleep 600", "sleep 0.3; trap - EXIT; exit 0") == (1, NOTHING_LEFT, said)


def test_the_line_of_an_error_is_found_before_other_lines(tmp_path: Path) -> None:
    """What Python prints of a warning at its end, for one."""
    says = "echo error: rank 1: this is wrong >&2; echo '  a line of source'; exit 3"
    assert run(tmp_path, "sleep 600", f"sleep 0.3; {says}") == (3, NOTHING_LEFT, "error: rank 1: this is wrong\n")


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [
        ("exit 5", 5, "exit code 5: a disk is full or has failed"),
        ("trap - EXIT; kill -KILL $$", 137, "killed by SIGKILL, as Linux does where memory is short"),
    ],
)
def test_a_rank_that_could_say_nothing_is_explained(tmp_path: Path, script: str, code: int, cause: str) -> None:
    said = f"launch: rank 1 failed ({cause}); the last lines of worker_1.log:\n(nothing)\n"
    assert run(tmp_path, "sleep 600", f"sleep 0.3; {script}") == (code, NOTHING_LEFT, said)


def test_logs_that_cannot_be_read_for_a_while_do_not_end_the_job(tmp_path: Path) -> None:
    """A folder in the place of the log cannot be read by root either."""
    script = "until [ -e back ]; do sleep 0.02; done; echo more"
    with start(tmp_path, f"echo one; {script}", "true") as process:
        assert process.stdout is not None and process.stdout.readline() == "one\n"
        (tmp_path / "worker_0.log").rename(tmp_path / "log")
        (tmp_path / "worker_0.log").mkdir()
        said = "launch: worker_0.log cannot be read: Is a directory; the job goes on unseen\n"
        assert process.stderr is not None and process.stderr.readline() == said
        (tmp_path / "worker_0.log").rmdir()
        (tmp_path / "log").rename(tmp_path / "worker_0.log")
        (tmp_path / "back").touch()
        out, err = process.communicate(timeout=HANGS)
    assert (process.returncode, out, err) == (0, f"more\n{NOTHING_LEFT}", "")


def test_the_processes_of_a_rank_end_with_it(tmp_path: Path) -> None:
    background = "sleep 0.3; (setsid sleep 600 &); sleep 600 & echo"
    assert run(tmp_path, background, background) == (0, f"\n{NOTHING_LEFT}", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_ranks_are_asked_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    script = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo ready; sleep 600 & wait"
    with start(tmp_path, script, script) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=HANGS)
    assert process.returncode == 128 + number
    assert (out, err) == (f"saved\n{NOTHING_LEFT}", f"launch: {number.name}: stopping 2 ranks\n")
    assert "saved" in (tmp_path / "worker_1.log").read_text()


def test_a_signal_that_comes_twice_is_one_request(tmp_path: Path) -> None:
    """A shell whose terminal is closed hangs up, and so does the kernel when the shell ends."""
    script = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo ready; sleep 600 & wait"
    with start(tmp_path, script, script, SAME_REQUEST_SECONDS="600") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None and "stopping" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=HANGS)
    assert (process.returncode, out, err) == (128 + signal.SIGHUP, f"saved\n{NOTHING_LEFT}", "")
    assert "saved" in (tmp_path / "worker_1.log").read_text()


def test_ranks_stop_gently_where_the_terminal_is_closed(tmp_path: Path) -> None:
    """Whatever is said from then on has nowhere to go."""
    script = "trap 'echo saved; exit 0' TERM; echo ready; sleep 600 & wait"
    command = [sys.executable, "-c", SUPERVISE, str(LAUNCH), STARTER, script, script]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"ready")
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(HANGS) == 128 + signal.SIGHUP
    assert all(log.read_text() == "ready\nsaved\n" for log in tmp_path.glob("worker_*.log"))


def test_a_second_signal_ends_stubborn_ranks(tmp_path: Path) -> None:
    stubborn = "trap 'echo no' TERM INT; echo ready; while :; do sleep 0.1; done"
    with start(tmp_path, stubborn, stubborn, SAME_REQUEST_SECONDS="0") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None and "stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert out.endswith(NOTHING_LEFT)


def test_ranks_stop_gently_where_the_launcher_is_killed(tmp_path: Path) -> None:
    script = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo ready; sleep 600 & wait"
    with start(tmp_path, script, script) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.kill()
        out, err = process.communicate(timeout=HANGS)  # until the last process that can write there has ended
    assert (out, err) == (f"saved\n{NOTHING_LEFT}", "launch: SIGTERM: stopping 2 ranks\n")
    assert "saved" in (tmp_path / "worker_1.log").read_text()


def test_no_rank_is_left_where_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = "echo $$; exec sleep 600"
    with start(tmp_path, script, script) as process:
        assert process.stdout is not None
        rank = int(process.stdout.readline())
        (supervisor,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(supervisor), signal.SIGKILL)
        assert process.wait(HANGS) == 128 + signal.SIGKILL
    assert not Path(f"/proc/{rank}").exists()


def test_a_starter_that_fails(tmp_path: Path) -> None:
    (tmp_path / "worker_1.log").mkdir()
    code, out, err = run(tmp_path, "sleep 600", "sleep 600")
    assert (code, out) == (1, NOTHING_LEFT)
    assert "launch: msrun failed (exit code 1); the last lines of msrun.log:" in err and "IsADirectoryError" in err


def test_a_rank_that_ends_before_the_starter(tmp_path: Path) -> None:
    """The starter takes its exit code along."""
    waits = STARTER.replace("os._exit(0)", "ranks[1].wait()")
    said = "launch: rank 1 failed (at once); the last lines of worker_1.log:\na reason\n"
    assert run(tmp_path, "sleep 600", "echo a reason; exit 3", starter=waits) == (1, NOTHING_LEFT, said)
