"""Save the state of the run: every so many updates, when it is the best, when it is asked to stop, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from train import distributed
from train.checkpoint import Best, Description, TrainingState, Writer
from train.hooks.base import Hook
from train.runstate import RunState

METRIC = "top1"


class Checkpoints(Hook):
    """Write a checkpoint every ``every`` updates (0: only when the run ends or stops).

    Args:
        state: the tensors.
        describe: says what the present state is.
        writer: writes both, on rank 0.
        others: hooks that are told before a save, to bring to disk what belongs to the state.
    """

    def __init__(
        self,
        state: TrainingState,
        describe: Callable[[RunState], Description],
        writer: Writer,
        *,
        every: int,
        others: Sequence[Hook],
    ):
        self.state = state
        self.describe = describe
        self.writer = writer
        self.every = every
        self.others = others
        self._saved_step: int | None = None

    def on_train_begin(self, run: RunState) -> None:
        self._saved_step = run.step if run.resumed and run.continues else None  # else it stands in another folder

    def on_eval_end(self, run: RunState) -> None:
        value = run.scalars[f"val/{METRIC}"]
        saves = self.every > 0 or run.step == run.total_steps
        if saves and (run.best is None or value > run.best.value):
            run.best = Best(metric=METRIC, value=value, step=run.step)

    def on_state_complete(self, run: RunState) -> None:
        best = run.best is not None and run.best.step == run.step
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
        state = self.state.capture()
        if state is None:
            distributed.together(lambda: None)
        else:
            description = self.describe(run)
            distributed.together(lambda: self.writer.write(description, state))
        self._saved_step = run.step
