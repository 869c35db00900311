"""Real damage at a chosen moment, as a hook of the run: ``hooks=[tests.faults.inject:Inject]``.

The environment says what, so that the configuration is that of an undisturbed run: ``FAULTS=kill:5:1,poison:7:0`` is
"before update 5 on rank 1, kill -9" and so on; ``what:step:rank``.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from train.checkpoint import disk as folder
from train.checkpoint import state as states
from train.data.loader import TrainLoader
from train.hooks import Hook, RunState
from train.rundir.folder import METRICS_FILE


class Fault(NamedTuple):
    what: str
    step: int
    rank: int


def faults() -> list[Fault]:
    words = [word.split(":") for word in os.environ.get("FAULTS", "").split(",") if word]
    return [Fault(what, int(step), int(rank)) for what, step, rank in words]


class Inject(Hook):
    def __init__(self) -> None:
        self.faults = faults()
        self.evaluated: list[int] = []
        """For each batch of an evaluation, the state."""
        for fault in self.faults:
            if patch := PATCHES.get(fault.what):
                patch(fault)

    def on_train_step_begin(self, run: RunState) -> None:
        for fault in self.faults:
            if (fault.step, fault.rank) == (run.step, run.rank) and fault.what in BEFORE_UPDATE:
                done_before = run.run_dir.with_name(f"{run.run_dir.name}.{fault.what}-{fault.step}")
                if not done_before.exists():  # once in the life of a run, also where it is started again
                    done_before.touch()
                    BEFORE_UPDATE[fault.what](run)

    def on_eval_step_begin(self, run: RunState) -> None:
        self.evaluated.append(run.step)
        for fault in self.faults:
            here = (fault.step, fault.rank) == (run.step, run.rank) and fault.what in IN_EVALUATION
            if here and self.evaluated.count(run.step) == 2:  # one batch is counted
                IN_EVALUATION[fault.what](run)


def poison(run: RunState) -> None:
    """One pixel of the batch is no number."""
    assert run.batch is not None
    images = run.batch.inputs.astype(np.float32)
    images[0, 0, 0, 0] = np.nan
    run.batch = run.batch._replace(inputs=images)


def flip(run: RunState) -> None:
    """The lowest bit of one weight's exponent changes."""
    weight = run.model.parameters_dict()["fc.weight"]
    array = weight.asnumpy().copy()
    array.view(np.uint32)[0, 0] ^= 1 << 23
    weight.set_data(ms.Tensor(array))


def forge(run: RunState) -> None:
    """The lowest bit of one weight in this rank's record of an earlier update changes."""
    path = max((run.run_dir / "snapshots").glob(f"*.rank-{run.rank}.npz"))
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["W_new.0"].view(np.uint32).flat[0] ^= 1
    np.savez(path, **arrays)


def send(number: signal.Signals) -> Callable[[RunState], None]:
    def to_myself(run: RunState) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.5)  # so that a signal that is caught is known before the update begins

    return to_myself


def unplug(run: RunState) -> None:
    """The cable out of this rank's network namespace is dead (tests/machines.py)."""
    subprocess.run(["ip", "link", "set", "cable", "down"], check=True)


def block_checkpoints(run: RunState) -> None:
    """A file stands where the folder of checkpoints should be."""
    (run.run_dir / "checkpoints").rename(run.run_dir / "moved")
    (run.run_dir / "checkpoints").touch()


def break_disk(run: RunState) -> None:
    """Let the next line of metrics.jsonl meet EIO, as a failing disk has it: so has address 0 of a process."""
    path = run.run_dir / METRICS_FILE
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == str(path.resolve()):
                memory = os.open("/proc/self/mem", os.O_WRONLY)
                os.dup2(memory, int(name))
                os.close(memory)


def fill_disk(run: RunState) -> None:
    """Not a byte is free any more."""
    with open(run.run_dir / "ballast", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 8, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def stay(run: RunState) -> None:
    """A thread that is no daemon and never ends; and the process crashes in its teardown."""
    threading.Thread(target=time.sleep, args=(1e6,)).start()
    atexit.register(os.abort)


BEFORE_UPDATE: dict[str, Callable[[RunState], None]] = {
    "kill": send(signal.SIGKILL),
    "freeze": send(signal.SIGSTOP),
    "term": send(signal.SIGTERM),
    "interrupt": send(signal.SIGINT),
    "hang": lambda run: time.sleep(1e6),
    "poison": poison,
    "flip": flip,
    "forge": forge,
    "leave": lambda run: os._exit(0),
    "system-exit": lambda run: sys.exit(0),
    "stay": stay,
    "unplug": unplug,
    "block-checkpoints": block_checkpoints,
    "fill-disk": fill_disk,
    "break-disk": break_disk,
}


IN_EVALUATION: dict[str, Callable[[RunState], None]] = {
    "kill-in-evaluation": send(signal.SIGKILL),
    "term-in-evaluation": send(signal.SIGTERM),
}


def kill_in_save(fault: Fault) -> None:
    """kill -9 when half of a file of checkpoint ``step`` is written: on rank 0 a large one, on another its own."""
    name = f"rank-{fault.rank}." if fault.rank else "optimizer."
    write = folder.write_file

    def half(path: Path, content: bytes) -> None:
        if folder.step_name(fault.step) in str(path) and path.name.startswith(name):
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    folder.write_file = half


def forget_momentum(fault: Fault) -> None:
    restore = states.restore

    def forgetful(state, *arguments, **options):
        velocities = [name for name in state.optimizer if name.startswith("optimizer.moments.")]
        assert velocities
        state.optimizer.update({name: np.zeros_like(state.optimizer[name]) for name in velocities})
        restore(state, *arguments, **options)

    states.restore = forgetful  # type: ignore[assignment]


def forget_position(fault: Fault) -> None:
    batches = TrainLoader.batches
    TrainLoader.batches = lambda self, start, stop: batches(self, 0, stop - start)  # type: ignore[method-assign]


PATCHES: dict[str, Callable[[Fault], None]] = {
    "kill-in-save": kill_in_save,
    "forget-momentum": forget_momentum,
    "forget-position": forget_position,
}


class Small(nn.Cell):
    """As little as a model can be that has all kinds of state: for runs of which many are made."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, stride=2)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Dense(8, num_classes)

    def construct(self, x):
        return self.fc(ops.relu(self.bn(self.conv(x))).mean((2, 3)))


class RaisesOnOne(Hook):
    """Raises at the moment that the environment names, on rank 1 alone."""

    def __getattribute__(self, name: str) -> object:
        if name == os.environ["MOMENT"] and os.environ["RANK_ID"] == "1":
            raise ValueError(f"mine, at {name}")
        return super().__getattribute__(name)


class MovesAway(Hook):
    """Renames the run's folder behind its last checkpoint."""

    def on_train_end(self, run: RunState) -> None:
        run.run_dir.rename(run.run_dir.with_name("moved"))


class Patience(Hook):
    """A reader's own hook, with something to remember: how long the loss has not fallen, as early stopping counts."""

    def __init__(self) -> None:
        self.lowest, self.waited = math.inf, 0

    def state(self) -> dict[str, float]:
        return {"lowest": self.lowest, "waited": self.waited}

    def restore(self, state: dict[str, float]) -> None:
        self.lowest, self.waited = state["lowest"], int(state["waited"])

    def on_train_step_end(self, run: RunState) -> None:
        assert run.result is not None
        self.waited = 0 if run.result.loss < self.lowest else self.waited + 1
        self.lowest = min(self.lowest, run.result.loss)
        run.scalars |= {"my/waited": self.waited, "my/lowest": self.lowest}
