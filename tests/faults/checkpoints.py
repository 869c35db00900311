"""Checkpoints of a run that never was, to be damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.checkpoint import State, Writer
from train.checkpoint.saved import Description

STATE = State(
    model={"w": np.arange(6, dtype=np.float32).reshape(2, 3)},
    optimizer={"optimizer.moments.w": np.ones((2, 3), np.float32)},
    ranks={"bn.moving_mean": np.zeros((2, 3), np.float32)},
)


def describe(step: int) -> Description:
    return Description(
        step=step,
        epoch=0,
        position=step,
        steps_per_epoch=1000,
        total_steps=500,
        evaluation_pending=False,
        world_size=2,
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
