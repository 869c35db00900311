"""When a hook is called."""

from __future__ import annotations

from train.runstate import RunState


class Hook:
    """Watches a run. Override what you need; names and moments are those of ``mindspore.train.Callback``.

    Hooks are called in the order they are given, on every rank. Only rank 0 writes files that ranks share.
    """

    def on_train_begin(self, run: RunState) -> None:
        """Before the first update."""

    def on_train_step_begin(self, run: RunState) -> None:
        """Before update ``run.step``."""

    def on_train_step_end(self, run: RunState) -> None:
        """After update ``run.step``: add to ``run.scalars`` what should be logged."""

    def on_eval_begin(self, run: RunState) -> None:
        """Before an evaluation of state ``run.step``."""

    def on_eval_step_begin(self, run: RunState) -> None:
        """Before each batch of an evaluation of state ``run.step``."""

    def on_eval_end(self, run: RunState) -> None:
        """After an evaluation of state ``run.step``, its figures are in ``run.scalars``. Not where it was stopped."""

    def on_scalars(self, run: RunState) -> None:
        """After the hooks above: ``run.scalars`` is complete for x = ``run.step``."""

    def on_state_complete(self, run: RunState) -> None:
        """State ``run.step`` is reached, and evaluated and logged if it is to be."""

    def on_save(self, run: RunState) -> None:
        """Before state ``run.step`` is saved: bring to disk what belongs to it."""

    def on_train_end(self, run: RunState) -> None:
        """After the last update and the last evaluation, or when the run stops before."""
