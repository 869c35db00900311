"""What becomes of a run in which a loss or gradient was not finite: the update is skipped, or the run ends."""

from __future__ import annotations

from typing import Literal

from pydantic import TypeAdapter

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.runtime import distributed
from train.runtime.errors import DivergedError
from train.runtime.keys import Count


class Guard(Hook):
    """Log every skipped update; stop after ``stop_after`` of them in a row (0: never).

    One that lowers a dynamic loss scale does not count for the stop. As results are read late, one more update may be
    under way by then.

    With ``mode`` "stop" nothing is skipped: the update is in the weights, and the run ends before it is saved and
    before hooks behind this one see its result.
    """

    def __init__(self, stop_after: int, mode: Literal["skip", "stop"] = "skip"):
        self.stop_after = stop_after
        self.mode = mode
        self.skipped = 0
        self.in_a_row = 0
        """Those since the last update that was applied, without those that lowered a dynamic loss scale."""
        self._first_skip = ""

    def state(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = (
            TypeAdapter(Count).validate_python(state[key]) for key in ("skipped", "in_a_row")
        )

    def on_result(self, run: RunState) -> None:
        if run.result is None or run.result.applied:
            self.in_a_row = 0
            return
        if self.mode == "stop":
            raise DivergedError(
                f"loss or gradient not finite in {self._describe(run)}; guard.mode=stop ends the run here, and nothing "
                "of this update is saved: lower schedule.lr_max or step.loss_scale, or look at these examples; "
                "resume=auto goes on from the last checkpoint, and with guard.mode=skip leaves such updates out"
            )
        self.skipped += 1
        run.scalars["guard/skipped"] = self.skipped
        if run.result.scale_lowered:
            if run.rank == 0:
                print(f"update skipped: update {run.step} overflows at this loss scale, which is halved", flush=True)
            return
        self.in_a_row += 1
        where = self._describe(run)  # collective; every rank is here, as every rank skipped
        if self.in_a_row == 1 or not self._first_skip:
            self._first_skip = where
        if run.rank == 0:
            print(f"update skipped: loss or gradient not finite in {where}", flush=True)

    def on_state_complete(self, run: RunState) -> None:
        if self.stop_after and self.in_a_row >= self.stop_after:
            raise DivergedError(
                f"{self.in_a_row} updates in a row had a loss or gradient that was not finite "
                f"(guard.stop_after={self.stop_after}), the first in {self._first_skip}; lower schedule.lr_max or "
                "step.loss_scale, or look at these examples"
            )
        if run.ending is not None and self.skipped == run.step > 0:
            raise DivergedError(
                f"all {run.step} updates had a loss or gradient that was not finite, so nothing was trained; lower "
                "schedule.lr_max or step.loss_scale, or look at the examples"
            )

    def _describe(self, run: RunState) -> str:
        assert run.result is not None and run.batch is not None
        bad = run.result.bad_ranks
        indices = distributed.gather_json(run.batch.indices.tolist() if run.rank in bad else None)
        if not bad:
            return f"update {run.step} (in the sum over ranks; each rank's own was finite)"
        return f"update {run.step} on " + " and ".join(f"rank {rank}, examples {indices[rank]}" for rank in bad)
