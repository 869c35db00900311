"""Count the updates that were skipped because a loss or gradient was not finite, and stop a run that only skips."""

from __future__ import annotations

from train import distributed
from train.errors import DivergedError
from train.hooks.base import Hook
from train.runstate import RunState


class Guard(Hook):
    """Log every skipped update; stop after ``stop_after`` of them in a row (0: never).

    Those that lower a dynamic loss scale, one after the other where it starts too large, do not count for the stop.
    """

    def __init__(self, stop_after: int):
        self.stop_after = stop_after
        self._first_skip = ""

    def on_train_step_end(self, run: RunState) -> None:
        if run.result is None or run.result.applied:
            run.skipped_in_a_row = 0
            return
        run.skipped += 1
        run.scalars["guard/skipped"] = run.skipped
        if run.result.scale_lowered:
            if run.rank == 0:
                print(f"update skipped: update {run.step} overflows at this loss scale, which is halved", flush=True)
            return
        run.skipped_in_a_row += 1
        where = self._describe(run)  # collective; every rank is here, as every rank skipped
        if run.skipped_in_a_row == 1 or not self._first_skip:
            self._first_skip = where
        if run.rank == 0:
            print(f"update skipped: loss or gradient not finite in {where}", flush=True)

    def on_state_complete(self, run: RunState) -> None:
        if self.stop_after and run.skipped_in_a_row >= self.stop_after:
            raise DivergedError(
                f"{run.skipped_in_a_row} updates in a row had a loss or gradient that was not finite "
                f"(guard.stop_after={self.stop_after}), the first in {self._first_skip}; lower schedule.lr_max or "
                "step.loss_scale, or look at these examples"
            )

    def _describe(self, run: RunState) -> str:
        assert run.result is not None and run.batch is not None
        bad = run.result.bad_ranks
        indices = distributed.gather_json(run.batch.indices.tolist() if run.rank in bad else None)
        if not bad:
            return f"update {run.step} (in the sum over ranks; each rank's own was finite)"
        return f"update {run.step} on " + " and ".join(f"rank {rank}, examples {indices[rank]}" for rank in bad)
