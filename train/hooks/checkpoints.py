"""Save the state of the run: every so many updates, when it is the best, when it is asked to stop, and at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from train import distributed
from train.checkpoint import Best, Description, TrainingState, Writer
from train.checkpoint.state import State, not_finite
from train.errors import DivergedError, UserError
from train.hooks.base import Hook, named
from train.rundir.folder import RunFolder
from train.runstate import RunState

METRIC = "top1"


class Checkpoints(Hook):
    """Write a checkpoint every ``every`` updates (0: only when the run ends or stops).

    Args:
        folder: the run's, checked to be still there.
        training_state: the tensors.
        describe: says what the present state is, with the states of hooks by name.
        writer: writes both, on rank 0.
        others: all hooks besides this one: they are told before a save, and their states are saved.
    """

    def __init__(
        self,
        folder: RunFolder,
        training_state: TrainingState,
        describe: Callable[[RunState, dict[str, Any]], Description],
        writer: Writer,
        *,
        every: int,
        others: Sequence[Hook],
    ):
        self.folder = folder
        self.training_state = training_state
        self.describe = describe
        self.writer = writer
        self.every = every
        self.others = others
        self.best: Best | None = None
        """The best evaluated state among those that were saved."""
        self._saved_step: int | None = None

    def state(self) -> dict[str, Any] | None:
        return self.best.model_dump() if self.best else None

    def restore(self, state: dict[str, Any] | None) -> None:
        self.best = Best.model_validate(state) if state else None

    def on_train_begin(self, run: RunState) -> None:
        self._saved_step = run.step if run.resumed and run.continues else None
        if not run.continues:  # what was saved stands in another folder
            self.best = None

    def on_eval_end(self, run: RunState) -> None:
        value = run.scalars[f"val/{METRIC}"]
        saves = self.every > 0 or run.step == run.total_steps
        if saves and (self.best is None or value > self.best.value):
            self.best = Best(metric=METRIC, value=value, step=run.step)

    def on_state_complete(self, run: RunState) -> None:
        best = self.best is not None and self.best.step == run.step
        wanted = run.stopping or run.step == run.total_steps or best
        if run.step == self._saved_step:
            if best:  # it was saved when the run stopped, and evaluated only now
                distributed.together(lambda: self.writer.mark_best(run.step) if run.rank == 0 else None)
        elif wanted or (self.every and run.step % self.every == 0):
            self.save(run)

    def on_train_end(self, run: RunState) -> None:
        distributed.together(self.writer.wait)

    def save(self, run: RunState) -> None:
        """Write the present state. Collective.

        Raises:
            StorageError: on every rank, when this or (in the background) the previous checkpoint cannot be written.
        """
        for hook in self.others:
            hook.on_save(run)
        state = self.training_state.capture()
        if state is None:
            distributed.together(lambda: None)
        else:
            distributed.together(lambda: self._write(run, state))
        self._saved_step = run.step

    def _write(self, run: RunState, state: State) -> None:
        self.folder.check_in_place()
        if bad := not_finite(state.model | state.optimizer | state.ranks):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise DivergedError(f"state {run.step} is not saved: {bad[0]}{more} is not finite; lower schedule.lr_max")
        best = self.best.step if self.best else None
        self.writer.write(self.describe(run, self._states()), state, best)

    def _states(self) -> dict[str, Any]:
        states = {name: hook.state() for name, hook in named([*self.others, self]).items()}
        for name, state in states.items():
            try:
                json.dumps(state, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"hooks: {name}.state() is not JSON ({error}); give numbers, text, lists and mappings"
                ) from None
        return states
