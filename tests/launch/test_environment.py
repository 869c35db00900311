"""Making the environment on a bare machine: a PATH with nothing but the few commands it needs and a Python."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.jobs import HANGS
from tests.launch.conftest import Checkout

COMMANDS = ("awk", "bash", "cmp", "cp", "df", "dirname", "flock", "grep", "mkdir", "readlink", "rm", "tail")
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
REQUIRE = "set -euo pipefail; source launch/environment.sh; require_environment requirements.txt; echo $ENV_PYTHON"


class Machine:
    """A bare machine with a checkout whose lock is one package, ``stand-in==1``, from a folder of wheels."""

    def __init__(self, root: Path) -> None:
        self.checkout = Checkout(root / "check out")
        self.venv = self.checkout.root / ".venv"
        self.package = self.venv / f"lib/python3.{sys.version_info[1]}/site-packages/stand_in.py"
        self.commands = root / "commands"
        self.wheels = root / "wheels"
        self.commands.mkdir()
        self.wheels.mkdir()
        for name in COMMANDS:
            (self.commands / name).symlink_to(shutil.which(name) or name)
        self.script("python3", f'exec {BASE_PYTHON} "$@"')
        self.set_lock("stand-in==1")
        make_wheel(self.wheels, "1")
        self.environment = {"PATH": str(self.commands), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}

    def script(self, name: str, body: str) -> None:
        path = self.commands / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{self.commands / 'bash'}\n{body}\n")
        path.chmod(0o755)

    def set_lock(self, line: str) -> None:
        (self.checkout.root / "launch" / "requirements.txt").write_text(f"{line}\n")

    def require(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **variables}
        command = [str(self.commands / "bash"), "-c", REQUIRE]
        cwd = self.checkout.root
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANGS)

    def made(self, *said: str) -> None:
        """Require the environment: it is there, and on the way the lines ``said`` were on stderr, as prefixes."""
        done = self.require()
        assert (done.returncode, done.stdout) == (0, f"{self.venv / 'bin' / 'python'}\n"), done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == len(said) and all(map(str.startswith, lines, said)), done.stderr

    def refused(self, words: str, code: int = 2, **variables: str) -> None:
        done = self.require(**variables)
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in lines[-1] and lines[-1].startswith("launch: "), done.stderr
        if code == 2:
            assert len(lines) == 1
            assert not self.venv.exists()


def make_wheel(folder: Path, version: str) -> None:
    info = f"stand_in-{version}.dist-info"
    with zipfile.ZipFile(folder / f"stand_in-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stand_in.py", f"version = {version}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: stand-in\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"stand_in.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


MAKING = "launch: making the environment .venv with "
INSTALLING = "launch: installing 1 packages from launch/requirements.txt"


def test_made_once_and_brought_up_to_date(machine: Machine) -> None:
    machine.made(MAKING, INSTALLING)
    machine.made()  # at once: nothing to do
    machine.set_lock("stand-in==2")
    machine.refused("the installation failed (all of it in ", code=1)
    make_wheel(machine.wheels, "2")
    machine.made(INSTALLING)
    assert machine.package.read_text() == "version = 2\n"


def test_an_interrupted_installation_is_made_anew(machine: Machine) -> None:
    wheel = machine.wheels / "stand_in-1-py3-none-any.whl"
    wheel.unlink()
    os.mkfifo(wheel)  # pip waits for ever to read it
    command = [str(machine.commands / "bash"), "-c", REQUIRE]
    with subprocess.Popen(
        command, cwd=machine.checkout.root, env=machine.environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as installing:
        while not (machine.venv / "install.log").exists():
            assert installing.poll() is None
            time.sleep(0.05)
        os.killpg(installing.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
    assert installing.returncode == 130
    wheel.unlink()
    make_wheel(machine.wheels, "1")
    half_written = machine.package.parent / "half_written.py"
    half_written.touch()
    machine.made(MAKING, INSTALLING)
    assert machine.package.exists() and not half_written.exists()


@pytest.mark.slow
def test_an_installation_whose_pip_is_killed_is_no_installation(machine: Machine) -> None:
    """As for lack of memory: pip says nothing, only its exit status tells."""
    wheel = machine.wheels / "stand_in-1-py3-none-any.whl"
    wheel.unlink()
    os.mkfifo(wheel)
    command = [str(machine.commands / "bash"), "-c", REQUIRE]
    with subprocess.Popen(
        command, cwd=machine.checkout.root, env=machine.environment, stderr=subprocess.PIPE, text=True
    ) as installing:
        while not (pips := processes(f"{machine.venv}/bin/python -m pip install")):
            assert installing.poll() is None
            time.sleep(0.05)
        for pid in pips:
            os.kill(pid, signal.SIGKILL)
        _, said = installing.communicate(timeout=HANGS)
    assert installing.returncode == 1
    assert said.splitlines()[-1] == "launch: the installation was killed (signal 9); the next start makes .venv anew"
    wheel.unlink()
    make_wheel(machine.wheels, "1")
    machine.made(MAKING, INSTALLING)


def processes(command: str) -> list[int]:
    """Return the process ids of those whose command line begins with ``command``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_text().replace("\0", " ").startswith(command):
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_another_python_behind_the_environment_is_noticed(machine: Machine) -> None:
    """As after an update of the system: the packages are in the folder of the old one."""
    machine.made(MAKING, INSTALLING)
    config = machine.venv / "pyvenv.cfg"
    config.write_text(config.read_text().replace(f"version = 3.{sys.version_info[1]}.", "version = 3.9."))
    machine.made(MAKING, INSTALLING)


def test_a_colon_in_the_path_is_refused(machine: Machine) -> None:
    machine.checkout.root = machine.checkout.root.rename(machine.checkout.root.parent / "check:out")
    machine.refused("check:out: the : in it separates the folders of PATH; move this folder to another place")


@pytest.mark.slow
def test_a_folder_that_moved_gets_a_new_environment(machine: Machine) -> None:
    machine.made(MAKING, INSTALLING)
    machine.checkout.root = machine.checkout.root.rename(machine.checkout.root.parent / "elsewhere")
    machine.venv = machine.checkout.root / ".venv"
    machine.made(MAKING, INSTALLING)


def test_an_environment_of_somebody_else_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    machine.venv.symlink_to(theirs)
    for _ in range(2):
        done = machine.require()
        assert done.returncode == 2 and "was not made by these scripts; move it away" in done.stderr
        assert (machine.venv / "kept").exists()
        if machine.venv.is_symlink():
            machine.venv.unlink()
            theirs.rename(machine.venv)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_an_interpreter_that_this_user_cannot_run_is_named(machine: Machine) -> None:
    """It lies in the home of whoever made the environment, which is closed to others."""
    (machine.venv / "bin").mkdir(parents=True)
    (machine.venv / "bin" / "python").symlink_to("/home/closed/python3")
    os.chown(machine.venv, 1234, 1234)
    done = machine.require()
    assert (done.returncode, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    assert "/bin/python cannot be run by this user: it leads to /home/closed/python3" in done.stderr


def test_no_python(machine: Machine) -> None:
    machine.script("python3", "exit 1")  # as an older Python ends the check of its version
    machine.refused("no Python 3.10-3.12 found (looked for python3.12 python3.11 python3.10 python3 python); install")
    (machine.commands / "python3").unlink()
    machine.refused("no Python 3.10-3.12 found")


def test_a_python_that_is_asked_for_and_unsuitable(machine: Machine) -> None:
    machine.refused("PYTHON=/nowhere/python is no Python 3.10-3.12 that runs", PYTHON="/nowhere/python")


def test_no_venv_module(machine: Machine) -> None:
    without_venv = f"""case "$*" in *ensurepip*) exit 1 ;; esac; exec {BASE_PYTHON} "$@\""""
    machine.script("python3", without_venv)
    machine.refused("python3 cannot make a virtual environment (no venv or ensurepip module): install it")
    machine.script("python", f'exec {BASE_PYTHON} "$@"')  # another Python that can is taken instead
    machine.made(MAKING, INSTALLING)


def test_not_enough_disk_space(machine: Machine) -> None:
    machine.script("df", "echo Filesystem 1024-blocks Used Available; echo /dev/disk 9000000 7750000 1250000")
    machine.refused(f"needs 5 GB of disk space, but {machine.checkout.root} has 1.2 GB free")


def test_an_active_environment_is_used_as_it_is(machine: Machine) -> None:
    done = machine.require(ACTIVE_ENVIRONMENT="1", PYTHON=sys.executable)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sys.executable}\n", "")
    machine.refused("ACTIVE_ENVIRONMENT: python is no Python 3.10-3.12", ACTIVE_ENVIRONMENT="1")


def test_a_mistake_is_told_before_anything_is_installed(machine: Machine) -> None:
    done = machine.checkout.run("local.sh", "--ranks", "0", environment=machine.environment)
    assert done.returncode == 2 and "--ranks: '0'" in done.stderr
    assert not machine.venv.exists()
