"""Save the state of the run: every so many updates, when it is the best, when it is asked to stop, and at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from train.checkpoint.disk import is_whole, step_name
from train.checkpoint.saved import Description, Writer
from train.checkpoint.state import State, capture, not_finite
from train.hooks.base import Hook, named
from train.hooks.runstate import RunState
from train.rundir.folder import RunFolder
from train.runtime import distributed
from train.runtime.errors import DivergedError, FiguresError, UserError, near_matches
from train.runtime.keys import Count, Section
from train.step.train_step import TrainStep


class Best(Section):
    """The best evaluated state among those that were saved."""

    metric: str
    value: float
    step: Count
    smaller_is_better: bool = False


class Checkpoints(Hook):
    """Write a checkpoint every ``every`` updates (0: only when the run ends or stops).

    Args:
        folder: the run's, checked to be still there.
        step: holds the state.
        description: of any state of this run.
        writer: writes state and description, on rank 0.
        others: all hooks besides this one: they are told of a save, and their states are saved.
        metric: of an evaluation, says which state is the best.
    """

    def __init__(
        self,
        folder: RunFolder,
        step: TrainStep,
        description: Description,
        writer: Writer,
        *,
        every: int,
        others: Sequence[Hook],
        metric: str = "top1",
        smaller_is_better: bool = False,
    ):
        self.folder = folder
        self.step = step
        self.description = description
        self.writer = writer
        self.every = every
        self.others = others
        self.metric = metric
        self.smaller_is_better = smaller_is_better
        self.best: Best | None = None
        """The best evaluated state among those that were saved."""
        self._saved_step: int | None = None
        self._figure: float | None = None
        """Of the present state, if it was evaluated."""

    def state(self) -> dict[str, Any] | None:
        return self.best.model_dump() if self.best else None

    def restore(self, state: dict[str, Any] | None) -> None:
        self.best = Best.model_validate(state) if state else None
        now = (self.metric, self.smaller_is_better)
        if self.best and (self.best.metric, self.best.smaller_is_better) != now:  # evaluate.best or best_is has changed
            self.best = None

    def on_train_begin(self, run: RunState) -> None:
        self._saved_step = run.step if run.resumed and run.continues else None
        if not run.continues:  # what was saved stands in another folder
            self.best = None
        best = self.best and self.writer.root / step_name(self.best.step)
        if best and distributed.any_rank(not distributed.together(lambda: is_whole(best, distributed.share()))):
            if run.rank == 0:
                print(f"note: {best}, the best state, is missing or damaged; a new best is looked for", flush=True)
            self.best = None

    def on_eval_end(self, run: RunState) -> None:
        value = run.scalars.get(f"val/{self.metric}")
        if value is None:
            found = [tag.removeprefix("val/") for tag in run.scalars if tag.startswith("val/")]
            raise FiguresError(f"evaluate.best={self.metric}: no such figure; {near_matches(self.metric, found)}")
        self._figure = value

    def on_eval_failed(self, run: RunState) -> None:
        if run.step != self._saved_step:
            self.save(run)
            distributed.together(self.writer.wait)

    def wants_state(self, run: RunState) -> bool:
        return self.every > 0 and run.step % self.every == 0

    def on_state_complete(self, run: RunState) -> None:
        self._report(run)
        last = run.ending is not None and run.ending.complete
        best = self._is_best(last, run.step)
        if run.step == self._saved_step:  # when the run stopped; it may have been evaluated only now
            distributed.together(lambda: self.writer.mark_best(run.step) if best and run.rank == 0 else None)
        elif best or run.ending is not None or self.wants_state(run):
            self.save(run)

    def _is_best(self, last: bool, step: int) -> bool:
        """Whether the present state is the best of those that are saved; the same on all ranks."""
        value, self._figure = self._figure, None
        if value is None or not math.isfinite(value) or not (last or self.every):
            return False
        sign = -1.0 if self.smaller_is_better else 1.0
        if self.best is not None and sign * value <= sign * self.best.value:
            return False
        self.best = Best(metric=self.metric, value=value, step=step, smaller_is_better=self.smaller_is_better)
        return True

    def on_train_end(self, run: RunState) -> None:
        distributed.together(self.writer.wait)
        self._report(run)

    def _report(self, run: RunState) -> None:
        """Tell the hooks of what has been written by now; on rank 0, the only one that writes."""
        while self.writer.written:
            path = self.writer.written.pop(0)
            for hook in self.others:
                hook.on_saved(run, path)

    def save(self, run: RunState) -> None:
        """Write the present state. Collective.

        Raises:
            StorageError: on every rank, when this or (in the background) the previous checkpoint cannot be written.
        """
        for hook in self.others:
            hook.on_save(run)
        state = capture(self.step)
        description = distributed.together(lambda: self._describe(run, state))
        self.writer.write(description, state, self.best.step if self.best else None)
        self._saved_step = run.step
        self._report(run)

    def _describe(self, run: RunState, state: State) -> Description:
        self.folder.check_in_place()
        if bad := not_finite(state.model | state.optimizer | state.own):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise DivergedError(f"state {run.step} is not saved: {bad[0]}{more} is not finite; lower schedule.lr_max")
        ended = run.ending.reason if run.ending and run.ending.by == "hook" else None
        return self.description.at(
            run.step, hooks=self._states(), evaluation_pending=run.evaluation_pending, ended=ended
        )

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
