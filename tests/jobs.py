"""Start real jobs: ranks through msrun, or the train command alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "train" / "recipes" / "digits_resnet20.yaml"
# A small network and few updates: what is tested is the pipeline.
SMALL = ["data.image_size=8", "model.options={depths: [1, 1, 1]}", "schedule.warmup=3", "schedule.total=12"]
# Nothing is recorded, unless a test asks for it: drawing what was takes as much CPU as the rest of so short a run.
SMALL += ["snapshots.steps=[]", "snapshots.layers=[]"]
RECORDED = ["snapshots.steps=[2, 7]", "snapshots.layers=[fc.weight, layer3.0.conv2.weight]"]

HANGS = 600
"""Seconds after which a job is said to hang: far more than a busy machine needs, and no test waits that long."""


class Finished(NamedTuple):
    code: int
    logs: list[str]
    """Rank by rank, all that it printed; for a command without msrun one entry."""

    def check(self) -> Finished:
        assert self.code == 0, "\n".join(self.logs)
        return self


def environment() -> dict[str, str]:
    """The tests' own Python first on PATH; a failed job's scheduler gives up after 10 s, not 30."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GLOG_v": "3",
        "MS_NODE_TIMEOUT": "10",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def msrun_command(
    ranks: int, task: Sequence[str | Path], folder: Path, *options: str, nodes: int = 1, port: int | None = None
) -> list[str]:
    """Return the command that runs ``python *task`` on this node's share of ``ranks``, with msrun's logs in ``folder``.

    Args:
        options: more of msrun's own.
        nodes: over how many the ranks are spread.
        port: the scheduler's, the same on all nodes; a free one if not given.
    """
    return [
        *("msrun", f"--worker_num={ranks}", f"--local_worker_num={ranks // nodes}"),
        *(f"--master_port={port or free_port()}", f"--log_dir={folder}", "--join=True", "--tail_worker_log=0"),
        *(*options, "python", *map(str, task)),
    ]


def msrun(ranks: int, task: Sequence[str | Path], folder: Path, timeout: float = HANGS) -> Finished:
    """Run ``python *task`` on ``ranks`` ranks, with msrun's logs in ``folder``."""
    command = msrun_command(ranks, task, folder)
    done = subprocess.run(command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=timeout)
    logs = [(folder / f"worker_{rank}.log").read_text() for rank in range(ranks)]
    return Finished(done.returncode, [re.sub(r"^\[(INFO|WARNING)\].*\n", "", log, flags=re.M) for log in logs])


def alone(task: Sequence[str | Path], folder: Path, timeout: float = HANGS) -> Finished:
    """Run ``python *task`` without msrun, with output and errors together."""
    done = subprocess.run(
        [sys.executable, *map(str, task)],
        env=environment(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return Finished(done.returncode, [done.stdout])


class Tool:
    """A module that readers may delete with its own tests (``tests/test_border.py``); a test elsewhere that uses it is
    skipped then."""

    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(pytest.importorskip(self._module, exc_type=ModuleNotFoundError), name)


def train_task(runs_dir: Path, name: str, *settings: str) -> list[str | Path]:
    """The train command on the digits recipe, made small."""
    return ["-m", "train", "--config", DIGITS, f"runs_dir={runs_dir}", f"name={name}", *SMALL, *settings]
