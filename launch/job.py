"""Start one job on this machine: check the arguments, run msrun, say where to look next.

Of ``train`` it knows the command lines (training, and the check before it), the keys ``name``, ``runs_dir`` and
``resume``, the exit codes and the names of the files in a run folder.
Imports only the standard library, so that the arguments can be checked before there is an environment.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import processes
import supervise
from console import STDOUT, one_line, say, show
from options import DEFAULT_PORT, LOOPBACK, parse
from supervise import EXIT_STORAGE, EXIT_USER_ERROR
from variables import BIN, DEFAULT_VARIABLES, job_environment, shell_line

# Of train (train/runtime/errors.py): done, a mistake, diverged, ranks differ, no storage, trained but the comparison
# fails; another attempt would end the same.
# And stopped on request, by a signal.
FINAL_CODES = (0, 2, 3, 4, 5, 7, *(128 + number for number in processes.stop_signals()))
# As there: what another path, or more rights on it, may mend; else a disk is full or fails.
MENDED = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}
MENDED |= {errno.ENAMETOOLONG, errno.EINVAL}


@dataclass(frozen=True)
class Job:
    """A job of ``nodes`` nodes with ``ranks`` ranks each, as seen from one of them."""

    module: str
    """what each rank runs, of the package train"""
    config: str | None
    settings: list[str]
    ranks: int
    nodes: int
    node_rank: int
    master: str
    port: int
    run_dir: Path
    bind_core: bool | None
    """whether msrun binds each rank to cores; None: on a CPU each rank takes its part (train/runtime/cores.py)"""
    variables: dict[str, str]
    """of the environment, for all that the user has not set"""

    def by_hand(self) -> str:
        """Return the command line that runs the same job in any shell."""
        return shell_line(self.msrun_command(join=True), self.variables)

    @property
    def log_dir(self) -> Path:
        logs = self.run_dir / "logs"
        return logs if self.nodes == 1 else logs / f"node-{self.node_rank}"  # the nodes may share the folder

    @property
    def local_ranks(self) -> range:
        return range(self.node_rank * self.ranks, (self.node_rank + 1) * self.ranks)

    def msrun_command(self, *, join: bool) -> list[str]:
        """Return the msrun command line; with ``join`` msrun itself waits and shows the log of its first rank."""
        return [
            "msrun",
            f"--worker_num={self.nodes * self.ranks}",
            f"--local_worker_num={self.ranks}",
            *([f"--node_rank={self.node_rank}"] if self.nodes > 1 else []),
            f"--master_addr={self.master}",
            f"--master_port={self.port}",
            *(["--bind_core=True"] if self.bind_core else []),
            *(["--join=True", f"--tail_worker_log={self.local_ranks[0]}"] if join else ["--join=False"]),
            f"--log_dir={self.log_dir}",
            *("python", "-m", self.module),
            *(["--config", self.config] if self.config else []),
            *self.settings,
        ]


def main(arguments: list[str]) -> int:
    options = parse(*arguments)
    if options.check_arguments:
        return 0
    try:
        os.getcwd()
    except FileNotFoundError:
        refuse("the working directory was deleted; change to one that exists")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the job starts, Ctrl-C just ends this, without a traceback
    require_commands()
    if options.kind == "preflight":
        return preflight(options)
    run_dir, resume = resolve_run(options.config, options.settings)
    job = make_job(options, "train", run_dir)
    if options.dry_run:
        show(job.by_hand(), STDOUT)
        return 0
    claim(job)
    say_start(job)
    code = run(job, resume, options.max_restarts)
    if code == 0 and job.node_rank == 0:
        say_where_to_look(run_dir)
    return code


def preflight(options: argparse.Namespace) -> int:
    """Let the ranks check themselves and each other; the logs stay only where something is wrong."""
    if options.config is not None:
        resolve(options.config, options.settings)
    folder = Path("preflight") if options.dry_run else Path(tempfile.mkdtemp(prefix="preflight-"))
    limits = {"--free-gib": options.free_gib, "--timeout": options.timeout}
    given = [f"{name}={value}" for name, value in limits.items() if value is not None]
    job = replace(make_job(options, "train.preflight", folder), settings=[*given, *options.settings])
    if options.dry_run:
        show(job.by_hand(), STDOUT)
        return 0
    claim(job)
    say_start(job)
    code = run(job, "never", max_restarts=0)
    if code == 0:
        shutil.rmtree(folder)
    return code


def make_job(options: argparse.Namespace, module: str, run_dir: Path) -> Job:
    told = {}  # read in train/runtime/cores.py and train/runtime/device.py
    if options.bind_core is None:
        told["LAUNCH_RANKS"] = str(options.ranks)
    return Job(
        module=module,
        config=options.config,
        settings=options.settings,
        ranks=options.ranks,
        nodes=options.nodes,
        node_rank=options.node_rank,
        master=options.master,
        port=usable_port(options.master, options.port, options.node_rank),
        run_dir=run_dir,
        bind_core=options.bind_core,
        variables=DEFAULT_VARIABLES | told,
    )


def say_start(job: Job) -> None:
    say(f"{job.ranks} ranks, logs in {job.log_dir}; the same job by hand:\n{job.by_hand()}")


def run(job: Job, resume: str, max_restarts: int) -> int:
    """Run the job, again from its last checkpoint after a failure that need not repeat itself; return its exit code."""
    processes.outlive_kill()
    stop = supervise.StopRequest()
    restarts = 0
    while True:
        keep_earlier_logs(job.log_dir)
        supervisor = supervise.Supervisor(
            job.log_dir, job.local_ranks, stop, scheduler=job.node_rank == 0, ranks_elsewhere=job.nodes > 1
        )
        code = supervisor.run(job.msrun_command(join=False), job_environment(job.variables))
        if stop.signal or code in FINAL_CODES or restarts == max_restarts:
            return code
        if resume not in ("auto", "never") and not any((job.run_dir / "checkpoints").glob("step-*")):
            say(f"not started again: nothing is saved yet, so resume=auto would not start from {resume}")
            return code
        restarts += 1
        job = replace(job, settings=[*job.settings, "resume=auto"])
        say(f"restart {restarts} of {max_restarts}, from the last checkpoint")


def refuse(message: str, code: int = EXIT_USER_ERROR) -> NoReturn:
    say(one_line(message))
    raise SystemExit(code)


def code_of(error: OSError) -> int:
    """Return the exit code of what a file system refused."""
    return EXIT_USER_ERROR if error.errno in MENDED else EXIT_STORAGE


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


def resolve(config: str, settings: list[str]) -> dict[str, Any]:
    """Return the whole configuration; exit with the code and message of ``train`` if it refuses."""
    command = [sys.executable, "-m", "train", "--config", config, "--print-config", *settings]
    checked = subprocess.run(command, env=job_environment(), stdout=subprocess.PIPE, check=False)
    if checked.returncode != 0:
        raise SystemExit(checked.returncode)
    import yaml  # not in the standard library: there is an environment by now

    return yaml.safe_load(checked.stdout)


def resolve_run(config: str, settings: list[str]) -> tuple[Path, str]:
    """Return the run folder, which must be free, and the key ``resume``."""
    resolved = resolve(config, settings)
    run_dir, resume = Path(resolved["runs_dir"], resolved["name"]), resolved["resume"]
    if resume == "never" and (run_dir / "config.yaml").exists():
        refuse(f"{run_dir} already holds a run; continue it with resume=auto, or choose another with name=...")
    return run_dir, resume


def usable_port(master: str, port: int | None, node_rank: int) -> int:
    """Return ``port``, or a free one where none is given, after a check of the scheduler's address.

    It must be this machine's on node 0, and another's on the others: msrun starts a scheduler wherever it is at home.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(master, port or 0, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:  # Unicode: a name with an empty or overlong part
        reason = getattr(error, "strerror", "no valid name of a host")
        refuse(f"--master {master}: {reason}; give the address of node 0")
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a job that ended just now is no obstacle
        try:
            probe.bind(address if node_rank == 0 else (master, 0))
        except OSError as error:
            if node_rank > 0 and error.errno == errno.EADDRNOTAVAIL:
                return port or DEFAULT_PORT
            at = f"--port {port}" if master == LOOPBACK else f"--master {master} --port {port}"
            refuse(f"{at}: {error.strerror}; it must be a free port of this machine")
        if node_rank > 0:
            refuse(f"--master {master} is an address of this machine, which is not node 0; give that of node 0")
        return probe.getsockname()[1]


def claim(job: Job) -> None:
    """Make the job's ``log_dir`` and keep it for this process alone until it ends.

    Neither it nor anything in it may be a link, which would lead msrun and the ranks' logs out of the run folder.
    """
    log_dir = job.log_dir
    for path in (job.run_dir, job.run_dir / "logs", log_dir, *log_dir.glob("*")):
        if path.is_symlink():
            refuse(f"{path} is a link; a run folder cannot hold one, choose another with name=...")
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        fcntl.flock(os.open(log_dir, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        refuse(f"another job is running in {log_dir.parent}; choose another folder with name=...")
    except OSError as error:
        refuse(f"{log_dir} cannot be used: {error.strerror}; choose another folder with runs_dir=...", code_of(error))


def keep_earlier_logs(log_dir: Path) -> None:
    """Move the logs of an earlier job into earlier-1, earlier-2, ...; msrun would write over them."""
    earlier = [path for path in log_dir.iterdir() if not path.is_dir()]
    if earlier:
        numbers = [path.name.removeprefix("earlier-") for path in log_dir.glob("earlier-*")]
        attic = log_dir / f"earlier-{1 + max((int(number) for number in numbers if number.isdecimal()), default=0)}"
        try:
            attic.mkdir()
            for path in earlier:
                path.rename(attic / path.name)
        except OSError as error:
            words = f"{attic} cannot be used for earlier logs: {error.strerror}; choose another folder with name=..."
            refuse(words, code_of(error))


def say_where_to_look(run_dir: Path) -> None:
    """Print the comparison's first table, and where the rest of the run is."""
    comparison = run_dir / "comparison" / "comparison.md"
    if comparison.exists():
        first_part = comparison.read_text(encoding="utf-8", errors="replace").partition("\n## ")[0]
        lines = [line for line in first_part.splitlines() if not line.startswith("![")]
        show("\n".join(["", *lines]), STDOUT)
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
    except OSError as error:  # of the run folder's disk, or of the rights on it
        if error.filename is None:
            raise
        refuse(f"{os.fsdecode(error.filename)}: {error.strerror}", code_of(error))
