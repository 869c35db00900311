"""A console must never decide over a run: the ranks end as always, and the exit code is theirs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.consoles import CONSOLES
from tests.faults.runs import SETTINGS, lines_logged, processes_of, steps_saved
from tests.jobs import DIGITS, HANGS, environment
from tests.launch.conftest import LAUNCH, RECIPE, STARTER, SUPERVISE, Checkout
from train.checkpoint.saved import load


def start(command: list[str], redirection: str, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start ``command`` in a process group of its own, as a shell with a terminal does."""
    return subprocess.Popen(
        ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "-", *command],
        cwd=folder,
        env={**environment(), "ACTIVE_ENVIRONMENT": "1", "MS_NODE_TIMEOUT": "30", **variables},
        start_new_session=True,
    )


@pytest.mark.parametrize("end", ["ctrl-c", "failure"])
@pytest.mark.parametrize("console", CONSOLES)
def test_ranks_end_gently_whatever_the_console_is(console: str, end: str, tmp_path: Path) -> None:
    lines = "for i in $(seq 100); do echo $i − 学; done; echo error: − >&2; "
    started = (
        "while [ -e /proc/$STARTER ]; do sleep 0.05; done; touch up-$$; "  # the supervisor has seen the starter's end
    )
    waits = f"trap 'sleep 0.2; echo saved; exit 0' TERM; {started} sleep 600 & wait"
    fails = "until ls up-*; do sleep 0.05; done; exit 7"
    scripts = [lines + (waits if end == "ctrl-c" else fails), lines + waits]
    command = [sys.executable, "-c", SUPERVISE, str(LAUNCH), STARTER, *scripts]
    with CONSOLES[console]() as (redirection, variables):
        process = start(command, redirection, tmp_path, **variables)
        if end == "ctrl-c":
            while len(list(tmp_path.glob("up-*"))) < 2:
                assert process.poll() is None
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(HANGS) == (130 if end == "ctrl-c" else 7)
    assert (tmp_path / "worker_1.log").read_text().endswith("error: −\nsaved\n")
    if console == "few signs":
        assert r"100 \u2212 \u5b66" in (tmp_path / "shown").read_text()


def test_control_characters_are_shown_as_escapes(tmp_path: Path) -> None:
    scripts = [r"printf 'title \033]0;x\007\n'; printf 'error: colour \033[31m\n' >&2; exit 2"]
    command = [sys.executable, "-c", SUPERVISE, str(LAUNCH), STARTER, *scripts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS)
    assert done.stdout.startswith("title \\x1b]0;x\\x07\n")
    assert done.stderr == "error: colour \\x1b[31m\n"


@pytest.mark.parametrize("argument", ["--\x1b[31m", "a\nb", "x" * 100_000, "--\x9b2J"])
def test_a_mistake_is_one_short_line_whatever_it_is_made_of(argument: str, checkout: Checkout) -> None:
    done = checkout.local(argument)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and len(done.stderr) <= 2100
    assert done.stderr.rstrip("\n").isprintable()


def test_a_closed_console_before_the_job(checkout: Checkout) -> None:
    """A refusal, in the shell's part too: with nobody to hear it the exit code is the same.

    The shell waits for a reader that is only stopped: nothing runs yet.
    """
    command = checkout.command("local.sh", "--ranks", "0", "--config", RECIPE)
    for console in CONSOLES.keys() - {"reader stopped"}:
        with CONSOLES[console]() as (redirection, variables):
            for environment in ({"ACTIVE_ENVIRONMENT": "1"}, {"ACTIVE_ENVIRONMENT": "1", "PYTHON": "/nowhere"}):
                with start(command, redirection, checkout.root, **variables, **environment) as process:
                    assert process.wait(HANGS) == 2, (console, environment)


@pytest.mark.msrun
@pytest.mark.parametrize("reader", ["tee log", pytest.param("head -n 2", marks=pytest.mark.slow)])
def test_ctrl_c_in_a_terminal_with_a_pipe(reader: str, tmp_path: Path) -> None:
    """The reader, in the same process group, is gone before the ranks have saved."""
    command = ["bash", str(LAUNCH / "local.sh"), "--ranks", "2", "--config", str(DIGITS)]
    command += [f"runs_dir={tmp_path}", "name=piped", *SETTINGS, "schedule.total=2000"]
    with start(command, f"2>&1 | {reader}", tmp_path) as process:
        while lines_logged(tmp_path / "piped") < 10:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(HANGS)
    assert code == 130
    last = steps_saved(tmp_path / "piped")[-1]
    load(tmp_path / "piped" / "checkpoints" / f"step-{last:08d}")
    log = (tmp_path / "piped" / "logs" / "worker_0.log").read_text()
    assert re.search(f"stopped by SIG(INT|TERM): state {last} is saved", log)
    assert processes_of(tmp_path / "piped") == []
