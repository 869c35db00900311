"""Checkpoints of a run that never was, to be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors

from train.checkpoint import disk
from train.checkpoint.saved import Description, Writer, to_files
from train.checkpoint.state import State, own_file
from train.runtime import distributed

STATE = State(
    model={"w": np.arange(6, dtype=np.float32).reshape(2, 3)},
    optimizer={"optimizer.moments.w": np.ones((2, 3), np.float32)},
    own={"bn.moving_mean": np.zeros(3, np.float32)},
)


def untrained(model_name: str) -> Any:
    """Return the step of a model of ours, the same on all ranks. Collective."""
    import models
    from train.step.network import Network
    from train.step.optimizer import make_optimizer
    from train.step.train_step import TrainStep

    model = models.create_model(model_name)
    distributed.broadcast_parameters(list(model.get_parameters()))
    optimizer = make_optimizer(model, np.ones(9, np.float32), momentum=0.9, weight_decay=0.0, decay_norm_and_bias=False)
    world = distributed.world_size()
    return TrainStep(Network(model, [0.5] * 3, [0.2] * 3), optimizer, global_batch=world, world_size=world)


def describe(step: int) -> Description:
    return Description(
        step=step,
        epoch=0,
        position=step,
        steps_per_epoch=1000,
        total_steps=500,
        evaluation_pending=False,
        world_size=1,
        global_batch=8,
        schedule_fingerprint="abc",
        data={"train": "abc"},
        hooks={"Guard": {"skipped": 0, "in_a_row": 0}},
        config={},
        versions={},
    )


def save(root: Path, *steps: int, keep: int = 9, best: int | None = None) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(root, keep=keep, background=False)
    for step in steps:
        writer.write(describe(step), STATE, best)


def put(root: Path, description: Description, state: State = STATE) -> Path:
    """Write what no run would; return the folder."""
    return put_files(root, description.step, {own_file(0): safetensors(state.own), **to_files(description, state)})


def put_files(root: Path, step: int, files: dict[str, bytes]) -> Path:
    disk.begin(root, disk.step_name(step), files)
    disk.finish(root, disk.step_name(step), files, {})
    return root / disk.step_name(step)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
