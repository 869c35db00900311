"""Start one training job on this machine: check the arguments, run msrun, say where to look next.

Of ``train`` it knows the command line, the keys ``name`` and ``runs_dir`` and the names of the files in a run folder.
Imports only the standard library, so that the arguments can be checked before there is an environment.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import supervise
from supervise import EXIT_USER_ERROR, say

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # of the environment; not resolved, as its interpreter is a link to the system's
LOOPBACK = "127.0.0.1"
PORTS = range(1024, 65536)

# Left over from a surrounding job (a cluster's scheduler, mpirun, another msrun), these would change who a rank is.
CLUSTER_VARIABLES = (
    *("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_SCHED_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"),
    *("MS_WORKER_IP", "MS_TOPO_TIMEOUT", "MS_SIMULATION_LEVEL", "MS_ENABLE_RECOVERY", "MS_RECOVERY_PATH"),
    *("RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "DEVICE_ID", "DEVICE_NUM", "SERVER_ID", "MSRUN_BIND_FILE"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    *("PMI_RANK", "PMI_SIZE", "PMIX_RANK"),
)
DEFAULT_VARIABLES = {
    "GLOG_v": "3",  # of the framework's own messages only the errors
    "PYTHONUNBUFFERED": "1",  # a line is in the log as soon as it is printed
    "PYTHONSAFEPATH": "1",  # a folder called train in the working directory is not the one that is meant (Python 3.11)
}


@dataclass(frozen=True)
class Job:
    """One job as seen from this machine: ``ranks`` ranks of ``python -m train`` and msrun's scheduler."""

    config: str
    settings: list[str]
    ranks: int
    port: int
    run_dir: Path

    @property
    def log_dir(self) -> Path:
        return self.run_dir / "logs"

    def msrun_command(self, *, join: bool) -> list[str]:
        """Return the msrun command line; with ``join`` msrun itself waits for the ranks and shows rank 0's log."""
        return [
            "msrun",
            f"--worker_num={self.ranks}",
            f"--local_worker_num={self.ranks}",
            f"--master_addr={LOOPBACK}",
            f"--master_port={self.port}",
            *(["--join=True", "--tail_worker_log=0"] if join else ["--join=False"]),
            f"--log_dir={self.log_dir}",
            *("python", "-m", "train", "--config", self.config, *self.settings),
        ]


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.check_arguments:
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the job starts, Ctrl-C just ends this, without a traceback
    require_commands()
    run_dir = resolve_run_dir(options.config, options.settings)
    port = usable_port(options.port)
    job = Job(options.config, options.settings, options.ranks, port, run_dir)
    by_hand = shell_line(job.msrun_command(join=True))
    if options.dry_run:
        print(by_hand)
        return 0
    claim_log_dir(job.log_dir)
    say(f"{job.ranks} ranks, logs in {job.log_dir}; the same job by hand:\n{by_hand}")
    supervisor = supervise.Supervisor(job.log_dir, range(job.ranks), supervise.StopRequest())
    code = supervisor.run(job.msrun_command(join=False), job_environment())
    if code == 0:
        say_where_to_look(run_dir)
    return code


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="launch/local.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--ranks", required=True, type=rank_count)
    parser.add_argument("--config", required=True)
    parser.add_argument("--port", type=port_number)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--check-arguments", action="store_true", help="stop after parsing")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    for setting in options.settings:
        if "=" not in setting:
            parser.error(f"unexpected argument {setting!r}; settings look like name=trial")
    return options


def rank_count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def port_number(text: str) -> int:
    if not text.isdecimal() or int(text) not in PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port from {PORTS[0]} to {PORTS[-1]}")
    return int(text)


def refuse(message: str) -> NoReturn:
    say(message)
    raise SystemExit(EXIT_USER_ERROR)


def require_commands() -> None:
    """Check that msrun can be started here, and will start this interpreter's environment."""
    if not sys.platform.startswith("linux"):
        refuse(
            f"these scripts supervise processes as Linux does; on {sys.platform} run msrun by hand (launch/README.md)"
        )
    for name in ("python", "msrun"):
        if shutil.which(name, path=str(BIN)) is None:
            refuse(
                f"the environment of {sys.executable} has no command {name!r} in {BIN}; install launch/requirements.txt"
            )


def resolve_run_dir(config: str, settings: list[str]) -> Path:
    """Return the run folder that ``train`` resolves; exit with its code (and its message) if it refuses the recipe."""
    command = [sys.executable, "-m", "train", "--config", config, "--print-config", *settings]
    checked = subprocess.run(command, env=job_environment(), stdout=subprocess.PIPE, text=True, check=False)
    if checked.returncode != 0:
        raise SystemExit(checked.returncode)
    import yaml  # not in the standard library: there is an environment by now

    resolved = yaml.safe_load(checked.stdout)
    run_dir = Path(resolved["runs_dir"], resolved["name"])
    if (run_dir / "config.yaml").exists():
        refuse(f"{run_dir} already holds a run; choose another with name=..., or move that folder away")
    return run_dir


def usable_port(port: int | None) -> int:
    """Return ``port``, or a free one where none is given."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a job that ended just now is no obstacle
        try:
            probe.bind((LOOPBACK, port or 0))
        except OSError as error:
            refuse(f"--port {port}: {error.strerror}; choose another, or leave the option out for a free one")
        return probe.getsockname()[1]


def claim_log_dir(log_dir: Path) -> None:
    """Make ``log_dir`` this job's own until this process ends; the logs of an earlier one move to earlier-1, -2, ..."""
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        fcntl.flock(os.open(log_dir, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        earlier = [path for path in log_dir.iterdir() if path.is_file()]
        if earlier:
            attic = log_dir / f"earlier-{1 + len(list(log_dir.glob('earlier-*')))}"
            attic.mkdir()
            for path in earlier:
                path.rename(attic / path.name)
    except BlockingIOError:
        refuse(f"another job is running in {log_dir.parent}; choose another folder with name=...")
    except OSError as error:
        refuse(f"{log_dir} cannot be used: {error.strerror}; choose another folder with runs_dir=...")


def job_environment() -> dict[str, str]:
    """Return this process's environment without a surrounding job, with the environment's own commands first."""
    environment = {key: value for key, value in os.environ.items() if key not in CLUSTER_VARIABLES}
    for name, folder in (("PATH", BIN), ("PYTHONPATH", ROOT)):
        environment[name] = os.pathsep.join(filter(None, (str(folder), environment.get(name))))
    return {**DEFAULT_VARIABLES, **environment}


def shell_line(command: list[str]) -> str:
    """Return the shell command that runs ``command`` in :func:`job_environment`, from the same working directory."""
    words = ["env"]
    words += [f"-u {name}" for name in CLUSTER_VARIABLES if name in os.environ]
    words += [f"{name}={value}" for name, value in DEFAULT_VARIABLES.items() if name not in os.environ]
    words += [f'PATH={shlex.quote(str(BIN))}:"$PATH"']
    words += [f'PYTHONPATH={shlex.quote(str(ROOT))}"${{PYTHONPATH:+:$PYTHONPATH}}"']
    return " ".join([*words, shlex.join(command)])


def say_where_to_look(run_dir: Path) -> None:
    """Print the comparison's first table, and where the rest of the run is."""
    comparison = run_dir / "comparison" / "comparison.md"
    if comparison.exists():
        first_part = comparison.read_text(encoding="utf-8").partition("\n## ")[0]
        lines = [line for line in first_part.splitlines() if not line.startswith("![")]
        print("", *lines, sep="\n", flush=True)
    show_curves = f"{shlex.quote(sys.executable)} -m tensorboard.main --host {LOOPBACK} --logdir"
    places = {
        "comparison/comparison.md": "the whole comparison: {}",
        "comparison/comparison.png": "its picture: {}",
        "metrics.jsonl": "every logged figure: {}",
        "checkpoints": "the trained weights: {}",
        "tensorboard": "the curves, in a browser on this machine: " + show_curves + " {}",
    }
    for place, words in places.items():
        if (run_dir / place).exists():
            say(words.format(shlex.quote(str(run_dir / place))))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # the reader of stdout is gone, as in "local.sh ... | head": stopped, and nothing to add
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
