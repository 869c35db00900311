"""Record what one update did to chosen layers, on the ranks that ``snapshots.ranks`` chooses: W_start, v_t (with
momentum), lr_t and W_new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.rundir.folder import SNAPSHOTS, RunFolder
from train.rundir.snapshots import layer_hashes, parse, snapshot_name, write_snapshot
from train.runtime import distributed
from train.step.optimizer import learning_rates, state_arrays, velocities


class SnapshotHook(Hook):
    """Write a snapshot file at each of ``steps``; costs nothing at other steps.

    Args:
        layers: names of trainable parameters.
        steps: updates t to record.
        ranks: which write them, see :func:`train.runtime.distributed.chosen_ranks`; of the others a hash is kept
            beside, for comparison.
        folder: the run's, checked to be still there.

    Raises:
        UserError: for a rank that there is not.
    """

    def __init__(
        self,
        layers: Sequence[str],
        steps: Iterable[int],
        ranks: str | list[int] = "all",
        folder: RunFolder | None = None,
    ):
        self.layers = list(layers)
        self.steps = frozenset(steps)
        self.folder = folder
        self.ranks = distributed.chosen_ranks("snapshots.ranks", ranks)
        self.recorded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        """W_start and W_new of each layer, between the end of a recorded update and the next update."""
        self._before: dict[str, np.ndarray] = {}

    def on_train_step_begin(self, run: RunState) -> None:
        self.recorded = {}
        if run.step not in self.steps:
            return
        kernel_step = int(run.optimizer.global_step.asnumpy()[0])
        rates = learning_rates(run.optimizer)
        self._before = {
            "kernel_step": np.asarray(kernel_step, np.int64),
            "lr": rates[""][kernel_step],
            **{f"lr.{i}": rates[name][kernel_step] for i, name in enumerate(self.layers)},
            **{f"W_start.{i}": value for i, value in enumerate(self._weights(run))},
            **self._state(run, "before"),
        }

    def on_train_step_end(self, run: RunState) -> None:
        if run.step not in self.steps or (run.result is not None and not run.result.applied):
            return  # it was not finite: there is nothing to compare
        found = velocities(run.optimizer)
        arrays: dict[str, np.ndarray] = {
            "step": np.asarray(run.step, np.int64),
            "rank": np.asarray(run.rank, np.int64),
            "world_size": np.asarray(run.world_size, np.int64),
            "optimizer": np.array(type(run.optimizer).__name__),
            "layers": np.array(self.layers),
            **self._before,
            **{f"W_new.{i}": value for i, value in enumerate(self._weights(run))},
            **self._state(run, "after"),
        }
        if found:
            arrays |= {f"v.{i}": found[name].asnumpy().copy() for i, name in enumerate(self.layers)}
        if run.gradients:
            arrays |= {f"gradient.{i}": run.gradients[name].asnumpy().copy() for i, name in enumerate(self.layers)}
        self._before = {}
        self.recorded = {name: (arrays[f"W_start.{i}"], arrays[f"W_new.{i}"]) for i, name in enumerate(self.layers)}
        if len(self.ranks) < run.world_size:
            arrays["hashes"] = distributed.gather_array(layer_hashes(parse("", arrays)))
            if run.rank not in self.ranks:
                return
        if self.folder is not None:
            self.folder.check_in_place()
        write_snapshot(run.run_dir / SNAPSHOTS / snapshot_name(run.step, run.rank), arrays)

    def _state(self, run: RunState, when: str) -> dict[str, np.ndarray]:
        if not run.gradients:
            return {}
        state = state_arrays(run.optimizer, self.layers)
        return {f"{when}.{name}": parameter.asnumpy().copy() for name, parameter in state.items()}

    def _weights(self, run: RunState) -> list[np.ndarray]:
        parameters = run.model.parameters_dict()
        return [parameters[name].asnumpy().copy() for name in self.layers]
