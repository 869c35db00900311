"""What is refused before anything starts, and what --dry-run prints."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import ROOT
from tests.launch.conftest import LAUNCH, RECIPE, Checkout

SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh") if os.access(path, os.X_OK))


def refused(done: subprocess.CompletedProcess[str], words: str, checkout: Checkout) -> None:
    """Exit code 2, one line on stderr with ``words`` in it, and nothing else."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert re.search(words, done.stderr), done.stderr
    assert not (checkout.root / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "required: --ranks, --config"),
        (f"--ranks 0 --config {RECIPE}", "--ranks: '0' must be a whole number of at least 1"),
        (f"--ranks two --config {RECIPE}", "--ranks: 'two' must be"),
        (f"--ranks 2 --config {RECIPE} --port 80", "'80' must be a port from 1024 to 65535"),
        (f"--ranks 2 --config {RECIPE} --worker_num 3", "unrecognized arguments: --worker_num"),
        (f"--ranks 2 --config {RECIPE} name", "unexpected argument 'name'; settings look like name=trial"),
        ("--ranks 2 --config nowhere.yaml", "^error: nowhere.yaml: no such file"),
        (f"--ranks 2 --config {RECIPE} nmae=trial", "^error: unknown key nmae"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(checkout: Checkout, arguments: str, words: str) -> None:
    refused(checkout.run("local.sh", *arguments.split()), words, checkout)


NODE = f"--nodes 2 --ranks 2 --config {RECIPE}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (f"{NODE} --node-rank 2 --master 127.0.0.1", "--node-rank: 2 must be from 0 to 1"),
        (f"{NODE} --node-rank 0", "required: --master"),
        (
            f"{NODE} --node-rank 0 --master 192.0.2.1",
            "--master 192.0.2.1 --port 8118: .*must be a free port of this machine",
        ),
        (
            f"{NODE} --node-rank 1 --master 127.0.0.1",
            "--master 127.0.0.1 is an address of this machine, which is not node 0",
        ),
        (
            f"{NODE} --node-rank 1 --master not.a.host.invalid",
            "--master not.a.host.invalid: .*give the address of node 0",
        ),
        (f"{NODE} --node-rank 0 --master a..b", "--master a..b: no valid name of a host; give the address of node 0"),
    ],
)
def test_mistakes_between_nodes(checkout: Checkout, arguments: str, words: str) -> None:
    refused(checkout.run("node.sh", *arguments.split()), words, checkout)


def test_the_command_of_the_second_node(checkout: Checkout) -> None:
    arguments = f"{NODE} --dry-run --node-rank 1 --master 192.0.2.1 --bind-core name=trial"
    done = checkout.run("node.sh", *arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    words = "msrun --worker_num=4 --local_worker_num=2 --node_rank=1 --master_addr=192.0.2.1 --master_port=8118 "
    words += "--bind_core=True --join=True --tail_worker_log=2 --log_dir=runs/trial/logs/node-1 python -m train "
    assert words in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_environment(script: str, checkout: Checkout) -> None:
    done = checkout.run(script, "--help", environment={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: launch/{script} ")
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken(checkout: Checkout, address: str) -> None:
    with socket.create_server((address, 0)) as listening:
        port = listening.getsockname()[1]
        refused(checkout.local("--port", str(port)), f"--port {port}: .*in use", checkout)


def test_a_used_run_folder_keeps_its_logs(checkout: Checkout) -> None:
    logs = checkout.root / "runs" / "trial" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker_0.log").write_text("precious")
    (logs.parent / "config.yaml").touch()
    done = checkout.local("name=trial")
    assert (done.returncode, done.stdout) == (2, "")
    words = "launch: runs/trial already holds a run; continue it with resume=auto, or choose another with name=...\n"
    assert done.stderr == words
    assert (logs / "worker_0.log").read_text() == "precious"


def test_the_run_folder_of_a_running_job(checkout: Checkout) -> None:
    logs = checkout.root / "runs" / "trial" / "logs"
    logs.mkdir(parents=True)
    folder = os.open(logs, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        done = checkout.local("name=trial")
    finally:
        os.close(folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "launch: another job is running in runs/trial; choose another folder with name=...\n"


def test_a_runs_dir_that_cannot_be_made(checkout: Checkout) -> None:
    (checkout.root / "file").touch()
    refused(checkout.local("runs_dir=file"), "file/run/logs cannot be used: .*runs_dir=", checkout)
    refused(checkout.local(f"runs_dir={'a/' * 3000}"), "a/a/.*: File name too long", checkout)


def test_a_disk_without_room_for_the_first_log_is_told(checkout: Checkout) -> None:
    (checkout.root / "limits").write_text("ulimit -f 0\n")  # no file may have a byte
    done = checkout.local(BASH_ENV=str(checkout.root / "limits"))
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.endswith("launch: runs/run/logs/msrun.log: File too large\n")


def test_dry_run_prints_the_command_and_starts_nothing(checkout: Checkout) -> None:
    done = checkout.local("--dry-run", "--port", "23456", "name=a trial", RANK_ID="3", RANK_TABLE_FILE="/cluster.json")
    assert (done.returncode, done.stderr) == (0, "")
    words = shlex.split(done.stdout)
    assert words[words.index("msrun") :] == [
        *("msrun", "--worker_num=2", "--local_worker_num=2", "--master_addr=127.0.0.1", "--master_port=23456"),
        *("--join=True", "--tail_worker_log=0", "--log_dir=runs/a trial/logs"),
        *("python", "-m", "train", "--config", RECIPE, "name=a trial"),
    ]
    unset = {after for word, after in itertools.pairwise(words) if word == "-u"}
    assert unset == {"RANK_ID", "RANK_TABLE_FILE"}
    assert not (checkout.root / "runs").exists()


@pytest.mark.parametrize(
    ("options", "told", "bound"),
    [
        ((), {"LAUNCH_RANKS=2"}, False),
        (("--bind-core",), set(), True),
        (("--no-bind-core",), set(), False),
    ],
)
def test_what_the_ranks_are_told(options: tuple[str, ...], told: set[str], bound: bool, checkout: Checkout) -> None:
    """Not what a surrounding job was told."""
    words = shlex.split(checkout.local("--dry-run", *options, LAUNCH_RANKS="7").stdout)
    assert {word for word in words if word.startswith("LAUNCH_") and "=" in word} == told
    assert ("--bind_core=True" in words) == bound


def test_each_job_gets_a_port_of_its_own(checkout: Checkout) -> None:
    ports = {re.search(r"--master_port=(\d+)", checkout.local("--dry-run").stdout)[1] for _ in range(3)}  # type: ignore[index]
    assert len(ports) == 3


def quickstart_name(checkout: Checkout, *settings: str, cwd: Path | None = None) -> tuple[str, str]:
    done = checkout.run("quickstart.sh", "--dry-run", *settings, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)[-1], done.stderr


def test_quickstart_keeps_earlier_runs(checkout: Checkout, tmp_path: Path) -> None:
    assert quickstart_name(checkout, cwd=tmp_path) == ("name=quickstart", "")
    for name, following in (("quickstart", "quickstart-2"), ("quickstart-2", "quickstart-3")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
        said = f"launch: earlier runs are kept; this one is runs/{following}\n"
        assert quickstart_name(checkout, cwd=tmp_path) == (f"name={following}", said)
    assert quickstart_name(checkout, "resume=auto", cwd=tmp_path) == ("name=quickstart-2", "")
    assert quickstart_name(checkout, "runs_dir=elsewhere", cwd=tmp_path) == ("name=quickstart", "")
    assert quickstart_name(checkout, "name=mine", cwd=tmp_path) == ("name=mine", "")


def test_quickstart_takes_the_options_of_local(checkout: Checkout) -> None:
    done = checkout.run("quickstart.sh", "--dry-run", "--ranks", "4", "end=ok")
    assert "--worker_num=4 " in done.stdout
    assert f"--config '{checkout.root / RECIPE}' end=ok name=quickstart" in done.stdout


@pytest.mark.parametrize("link", ["", "logs", "logs/worker_0.log", "logs/msrun.log"])
def test_logs_are_written_through_no_link(link: str, checkout: Checkout, tmp_path: Path) -> None:
    path = checkout.root / "runs" / "run" / link
    path.parent.mkdir(parents=True)
    outside = tmp_path / "outside"
    if not path.suffix:
        outside.mkdir()
        (outside / "worker_0.log").write_text("somebody's own")
    path.symlink_to(outside)
    done = checkout.local()
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("launch: runs/run.* is a link; a run folder cannot hold one, .*\n", done.stderr), done.stderr
    assert (not path.suffix and [one.name for one in outside.iterdir()] == ["worker_0.log"]) or not outside.exists()


def test_a_safe_path_does_not_hide_the_launchers_own_files(checkout: Checkout) -> None:
    """The variable stands in the command that is printed."""
    done = checkout.local("--dry-run", PYTHONSAFEPATH="1")
    assert done.returncode == 0 and "PYTHONSAFEPATH=1" in done.stdout, done.stderr


def test_a_working_directory_that_was_deleted(checkout: Checkout, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f'mkdir "{gone}"; cd "{gone}"; rmdir "{gone}"; exec "$@"'
    said = "the working directory was deleted; change to one that exists\n"
    train = [sys.executable, "-m", "train", "--config", RECIPE]
    for command, root in ((checkout.command("local.sh", "--ranks", "2", "--config", RECIPE), ""), (train, str(ROOT))):
        environment = checkout.environment(PYTHONPATH=root)
        done = subprocess.run(["bash", "-c", script, "-", *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.endswith(said) and "Traceback" not in done.stderr, done.stderr
