"""Start jobs that are damaged, and compare what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.jobs import DIGITS, ROOT, SMALL, Finished, alone, environment
from train.checkpoint.folder import list_steps

SETTINGS = [*SMALL, "hooks=['tests.faults.inject:Inject']", "evaluate.every=4", "snapshots.layers=[fc.weight]"]
UPDATES = 12


def start(folder: Path, name: str, *settings: str, ranks: int = 1, faults: str = "") -> subprocess.Popen[str]:
    """Start ``ranks`` ranks (one: without msrun) of the small digits run; output and errors come together."""
    task = ["--config", str(DIGITS), f"runs_dir={folder}", f"name={name}", *SETTINGS, *settings]
    if ranks == 1:
        command = [sys.executable, "-m", "train", *task]
    else:
        command = [sys.executable, str(ROOT / "launch" / "job.py"), "local", "--ranks", str(ranks), *task]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(), "FAULTS": faults},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, name: str, *settings: str, ranks: int = 1, faults: str = "", timeout: float = 300) -> Finished:
    with start(folder, name, *settings, ranks=ranks, faults=faults) as job:
        try:
            output, _ = job.communicate(timeout=timeout)
        finally:
            job.send_signal(signal.SIGKILL)
    left = processes_of(folder / name)
    assert not left, f"left behind: {left}"
    return Finished(job.returncode, [output])


def processes_of(run_dir: Path) -> list[str]:
    """Return the command lines of processes (not zombies) that train in ``run_dir``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if f"runs_dir={run_dir.parent}" in words and f"name={run_dir.name}" in words:
            found.append(" ".join(words))
    return found


def steps_saved(run_dir: Path) -> list[int]:
    return sorted(step for step, _ in list_steps(run_dir / "checkpoints"))


def metrics(run_dir: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in lines]


def require_equal(run_dir: Path, reference: Path) -> None:
    """The run must have left bit for bit what the undisturbed one has: weights, velocities, metrics, snapshots."""
    last = f"checkpoints/step-{UPDATES:08d}"
    for file in ("model.safetensors", "optimizer.safetensors", "ranks.safetensors"):
        assert (run_dir / last / file).read_bytes() == (reference / last / file).read_bytes(), file
    assert metrics(run_dir) == metrics(reference)
    snapshots = sorted(path.name for path in (reference / "snapshots").iterdir())
    assert snapshots and sorted(path.name for path in (run_dir / "snapshots").iterdir()) == snapshots
    for name in snapshots:
        with np.load(run_dir / "snapshots" / name) as mine, np.load(reference / "snapshots" / name) as theirs:
            for key in theirs.files:
                np.testing.assert_array_equal(mine[key], theirs[key], err_msg=f"{name} {key}")
    require_tensorboard(run_dir)


def require_tensorboard(run_dir: Path) -> None:
    """TensorBoard must show each point of metrics.jsonl once."""
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for tag in ("train/loss", "val/top1"):
        logged = [(line["step"], np.float32(line[tag])) for line in metrics(run_dir) if tag in line]
        assert [(event.step, event.value) for event in events.Scalars(tag)] == logged


def children_of(pid: int) -> dict[str, int]:
    """Return the process ids of a job's ranks by rank, from their environment."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(
                pair.partition("=")[::2] for pair in path.read_bytes().decode(errors="replace").split("\0")
            )
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid and variables.get("MS_ROLE") == "MS_WORKER":
            found[variables["RANK_ID"]] = int(path.parent.name)
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
