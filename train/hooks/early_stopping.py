"""End a run whose evaluations no longer improve."""

from __future__ import annotations

import math
from typing import Any, Literal

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.runtime.errors import FiguresError, UserError, near_matches


class EarlyStopping(Hook):
    """Ask for the end after ``patience`` evaluations in a row without a better figure; a resumed run counts on.

    Args:
        patience: evaluations, at least 1.
        metric: of an evaluation, e.g. loss; empty: that of ``evaluate.best``.
        best_is: max or min; empty: as for ``evaluate.best``, of the loss min.
        min_delta: by how much more than this a figure has to be better.
    """

    def __init__(
        self, patience: int, metric: str = "", best_is: Literal["", "max", "min"] = "", min_delta: float = 0.0
    ):
        numbers = type(patience) is int and type(min_delta) in (int, float)
        if not numbers or patience < 1 or not min_delta >= 0 or best_is not in ("", "max", "min"):
            raise UserError(
                f"hooks: EarlyStopping(patience={patience!r}, best_is={best_is!r}, min_delta={min_delta!r}): "
                "patience is a whole number, 1 or more, best_is max or min, min_delta a number, 0 or more"
            )
        self.patience = patience
        self.metric = metric
        self.best_is = best_is
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0
        self._restored_of: tuple[Any, Any] | None = None

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "metric": self.metric, "best_is": self.best_is}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
        self._restored_of = (state["metric"], state["best_is"])

    def on_train_begin(self, run: RunState) -> None:
        assert run.config is not None
        options = run.config.evaluate
        if options.every == 0:
            raise UserError("hooks: EarlyStopping looks at evaluations, and evaluate.every=0 makes one at the end only")
        if not self.best_is:
            smaller = self.metric == "loss" or (self.metric in ("", options.deciding) and options.smaller_is_better)
            self.best_is = "min" if smaller else "max"
        self.metric = self.metric or options.deciding
        if self._restored_of not in (None, (self.metric, self.best_is)):  # the best of another figure
            self.best, self.waited = None, 0

    def on_eval_end(self, run: RunState) -> None:
        value = run.scalars.get(f"val/{self.metric}")
        if value is None:
            found = [tag.removeprefix("val/") for tag in run.scalars if tag.startswith("val/")]
            raise FiguresError(
                f"hooks: EarlyStopping has no metric {self.metric!r}; {near_matches(self.metric, found)}"
            )
        sign = -1.0 if self.best_is == "min" else 1.0
        if math.isfinite(value) and (self.best is None or sign * (value - self.best) > self.min_delta):
            self.best, self.waited = float(value), 0
            return
        self.waited += 1
        if self.waited >= self.patience and run.step < run.total_steps:
            run.request_stop(
                f"EarlyStopping: {self.metric} has not been better than {self.best} in {self.waited} evaluations"
            )
