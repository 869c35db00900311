"""Start jobs that are damaged, and compare what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.jobs import DIGITS, ROOT, SMALL, Finished, environment
from train.checkpoint.disk import list_steps

HOOKS = "hooks=['tests.faults.inject:Inject', 'tests.faults.inject:Patience']"
# On two ranks an evaluation has 12 batches: enough to be asked in the midst of it whether to stop.
RECORDED = ["snapshots.steps=[2, 7]", "snapshots.layers=[fc.weight]"]
SETTINGS = [*SMALL, *RECORDED, HOOKS, "evaluate.every=4", "data.eval_batch=16"]


def start(
    folder: Path, name: str, *settings: str, ranks: int = 1, faults: str = "", launch: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start ``ranks`` ranks (one: without the launcher) of the small digits run; output and errors come together.

    Args:
        faults: as :mod:`tests.faults.inject` reads them.
        launch: options of the launcher.
    """
    if ranks == 1:
        return start_command([sys.executable, "-m", "train"], folder, name, *settings, FAULTS=faults)
    command = ["bash", str(ROOT / "launch" / "local.sh"), "--ranks", str(ranks), *launch]
    return start_command(command, folder, name, *settings, FAULTS=faults)


def start_command(
    command: Sequence[str], folder: Path, name: str, *settings: str, **variables: str
) -> subprocess.Popen[str]:
    """Start ``command``, which takes the arguments of ``train``, on the small digits run."""
    return subprocess.Popen(
        [*command, "--config", str(DIGITS), f"runs_dir={folder}", f"name={name}", *SETTINGS, *settings],
        cwd=folder,
        # The launcher need not wait for the scheduler, so its time-out can be the framework's own again.
        env={**environment(), "MS_NODE_TIMEOUT": "30", "ACTIVE_ENVIRONMENT": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, name: str, *settings: str, timeout: float = 300, **options: Any) -> Finished:
    """Run the job of :func:`start` to its end, which must leave no process behind."""
    with start(folder, name, *settings, **options) as job:
        return finish(job, folder / name, timeout)


def finish(job: subprocess.Popen[str], run_dir: Path, timeout: float = 300) -> Finished:
    return finish_all([job], run_dir, timeout)[0]


def finish_all(jobs: Sequence[subprocess.Popen[str]], run_dir: Path, timeout: float = 300) -> list[Finished]:
    """Wait for the launchers of one run, one on each node."""
    try:
        outputs = [job.communicate(timeout=timeout)[0] for job in jobs]
    except subprocess.TimeoutExpired:
        for pid in processes_of(run_dir):
            with contextlib.suppress(ProcessLookupError):  # a launcher that is left ends the others
                os.kill(pid, signal.SIGKILL)
        raise
    left = processes_of(run_dir)
    assert not left, f"left behind: {left}; {outputs}"
    return [Finished(job.returncode, [output]) for job, output in zip(jobs, outputs, strict=True)]


def processes_of(run_dir: Path) -> list[int]:
    """Return the process ids of all that train in ``run_dir``: launcher, scheduler and ranks; zombies are none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if f"runs_dir={run_dir.parent}" in words and f"name={run_dir.name}" in words:
            found.append(int(path.parent.name))
    return found


def listening_addresses(pids: Iterable[int]) -> set[str]:
    """Return the IPv4 addresses (without ports) at which these processes accept connections; proc(5), net/tcp."""
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            listening[f"socket:[{fields[9]}]"] = socket.inet_ntoa(bytes.fromhex(fields[1].split(":")[0])[::-1])
    links = [os.readlink(path) for pid in pids for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {listening[link] for link in links if link in listening}


def wait_for_lines(job: subprocess.Popen[str], run_dir: Path, count: int, timeout: float = 120) -> None:
    """Wait until metrics.jsonl has ``count`` lines."""
    deadline = time.monotonic() + timeout
    while lines_logged(run_dir) < count:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def lines_logged(run_dir: Path) -> int:
    try:
        return (run_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def steps_saved(run_dir: Path) -> list[int]:
    return sorted(step for step, _ in list_steps(run_dir / "checkpoints"))


def metrics(run_dir: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(("perf/", "ranks/"))} for line in lines]


def require_equal(run_dir: Path, reference: Path, updates: int = 12) -> None:
    """The run must have left bit for bit what the undisturbed one has: weights, velocities, metrics, snapshots."""
    last = f"checkpoints/step-{updates:08d}"
    own = [path.relative_to(reference / last) for path in sorted((reference / last / "ranks").glob("*/*"))]
    assert own, "each rank has a file of its own"
    for file in ("model.safetensors", "optimizer.safetensors", *own):
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


def ranks_of(run_dir: Path) -> dict[int, int]:
    """Return the process id of each rank that trains in ``run_dir``."""
    found = {}
    for pid in processes_of(run_dir):
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        variables = dict(word.partition("=")[::2] for word in words)
        if variables.get("MS_ROLE") == "MS_WORKER":
            found[int(variables["RANK_ID"])] = pid
    return found
