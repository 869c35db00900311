"""Compare the ranks' weights and velocities now and then, and before every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from train import replicas
from train.hooks.base import Hook, RunState

if TYPE_CHECKING:
    from mindspore import Parameter


class ReplicaCheck(Hook):
    """Stop the run when ``parameters`` differ between ranks; looks every ``every`` updates (0: only when saving)."""

    def __init__(self, parameters: Mapping[str, Parameter], every: int):
        self.parameters = parameters
        self.every = every
        self._compared: int | None = None

    def on_state_complete(self, run: RunState) -> None:
        if self.every and run.step % self.every == 0:
            self._compare(run)

    def on_save(self, run: RunState) -> None:
        if self._compared != run.step:
            self._compare(run)

    def _compare(self, run: RunState) -> None:
        replicas.compare(self.parameters, run.step)
        self._compared = run.step
