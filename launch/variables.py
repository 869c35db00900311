"""The environment of a job: this process's, without a surrounding job's, with our own commands and packages first."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # of the environment; not resolved, as its interpreter is a link to the system's

# Left over from a surrounding job (a cluster's scheduler, mpirun, another msrun), these would change who a rank is.
CLUSTER_VARIABLES = (
    *("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_SCHED_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"),
    *("MS_TOPO_TIMEOUT", "MS_SIMULATION_LEVEL", "MS_ENABLE_RECOVERY", "MS_RECOVERY_PATH"),
    *("RANK_ID", "RANK_SIZE", "RANK_TABLE_FILE", "DEVICE_ID", "DEVICE_NUM", "SERVER_ID", "MSRUN_BIND_FILE"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    *("PMI_RANK", "PMI_SIZE", "PMIX_RANK", "LAUNCH_RANKS"),
)
DEFAULT_VARIABLES = {
    "GLOG_v": "3",  # of the framework's own messages only the errors
    "PYTHONIOENCODING": "utf-8",  # of the logs, and of what comes back to us, whatever the terminal's encoding is
    "PYTHONUNBUFFERED": "1",  # a line is in the log as soon as it is printed
    "PYTHONSAFEPATH": "1",  # the working directory is the last of PYTHONPATH, not the first: it may hold a train, too
}


def job_environment(variables: Mapping[str, str] = DEFAULT_VARIABLES) -> dict[str, str]:
    """Return this process's environment without a surrounding job, with our own commands and packages first.

    Args:
        variables: more of them, unless the user has set them.
    """
    environment = {key: value for key, value in os.environ.items() if key not in CLUSTER_VARIABLES}
    environment["PATH"] = os.pathsep.join([str(BIN), *filter(None, [environment.get("PATH")])])
    users = filter(None, [environment.get("PYTHONPATH")])
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *users, os.getcwd()])
    return {**variables, **environment}


def shell_line(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Return the shell command that runs ``command`` in :func:`job_environment`, from the same working directory."""
    words = ["env"]
    words += [f"-u {name}" for name in CLUSTER_VARIABLES if name in os.environ]
    left = os.environ.keys() - set(CLUSTER_VARIABLES)
    words += [f"{name}={value}" for name, value in variables.items() if name not in left]
    words += [f'PATH={shlex.quote(str(BIN))}:"$PATH"']
    words += [f'PYTHONPATH={shlex.quote(str(ROOT))}"${{PYTHONPATH:+:$PYTHONPATH}}:$PWD"']
    return " ".join([*words, shlex.join(command)])
