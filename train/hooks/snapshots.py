"""Record, on every rank, what one update did to chosen layers: W_start, v_t, lr_t and W_new.

File: ``snapshots/step-00000005.rank-0.npz``, one for each step and rank, all arrays without pickling. Scalars ``step``,
``kernel_step`` (the optimizer's ``global_step`` before the update), ``lr`` (float32, the element of the optimizer's own
learning-rate tensor), ``rank``, ``world_size``; ``layers`` (names); and for the i-th layer ``W_start.i``, ``v.i`` and
``W_new.i`` (float32, the parameter's shape).
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from train.errors import UserError, near_matches
from train.hooks.base import Hook, RunState

FOLDER = "snapshots"


def snapshot_name(step: int, rank: int) -> str:
    return f"step-{step:08d}.rank-{rank}.npz"


def match_layers(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the parameter ``names`` that the ``patterns`` (names or globs) choose, in the model's order.

    Raises:
        UserError: for a pattern that matches nothing; the message lists near matches.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise UserError(
                f"snapshots.layers: {pattern!r} matches no parameter; {near_matches(pattern, names, limit=5)}"
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


class SnapshotHook(Hook):
    """Write a snapshot file at each of ``steps``; costs nothing at other steps.

    Args:
        layers: names of trainable parameters, as :func:`match_layers` returns them.
        steps: updates t to record.
    """

    def __init__(self, layers: Sequence[str], steps: Iterable[int]):
        self.layers = list(layers)
        self.steps = frozenset(steps)
        self.recorded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        """W_start and W_new of each layer, between the end of a recorded update and the next update."""
        self._before: dict[str, np.ndarray] = {}

    def on_train_step_begin(self, run: RunState) -> None:
        self.recorded = {}
        if run.step not in self.steps:
            return
        kernel_step = int(run.optimizer.global_step.asnumpy()[0])
        self._before = {
            "kernel_step": np.asarray(kernel_step, np.int64),
            "lr": run.optimizer.learning_rate.learning_rate.asnumpy()[kernel_step],
            **{f"W_start.{i}": value for i, value in enumerate(self._weights(run))},
        }

    def on_train_step_end(self, run: RunState) -> None:
        if run.step not in self.steps or (run.result is not None and not run.result.applied):
            return  # a skipped update moved nothing: there is nothing to compare
        velocities = run.velocities
        arrays = {
            "step": np.int64(run.step),
            "rank": np.int64(run.rank),
            "world_size": np.int64(run.world_size),
            "layers": np.array(self.layers),
            **self._before,
            **{f"W_new.{i}": value for i, value in enumerate(self._weights(run))},
            **{f"v.{i}": velocities[name].asnumpy().copy() for i, name in enumerate(self.layers)},
        }
        self._before = {}
        self.recorded = {name: (arrays[f"W_start.{i}"], arrays[f"W_new.{i}"]) for i, name in enumerate(self.layers)}
        write_arrays(run.run_dir / FOLDER / snapshot_name(run.step, run.rank), arrays)

    def _weights(self, run: RunState) -> list[np.ndarray]:
        parameters = run.model.parameters_dict()
        return [parameters[name].asnumpy().copy() for name in self.layers]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz so that a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)
