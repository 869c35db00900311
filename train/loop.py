"""The loop, in one piece. State t is the state before update t; update t uses lr[t]."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from train.data.loader import Batch, TrainLoader
from train.hooks import Hook, RunState
from train.step import StepResult

Update = Callable[[Batch, int], StepResult]
Evaluation = Callable[[], dict[str, float]]


def train(
    run: RunState,
    update: Update,
    loader: TrainLoader,
    evaluation: Evaluation,
    hooks: Sequence[Hook],
    *,
    evaluate_every: int = 0,
) -> None:
    """Make the updates ``run.step`` to ``run.total_steps - 1`` and evaluate the last state.

    Args:
        update: makes update t with this rank's batch, :class:`train.step.Update`.
        evaluation: returns the figures of the present weights, by name; called every ``evaluate_every`` updates
            (0: only at the end).
    """
    call(hooks, "on_train_begin", run)
    batches = loader.batches(run.step, run.total_steps)
    while run.step < run.total_steps:
        asked = time.perf_counter()
        run.batch = next(batches)
        began = time.perf_counter()
        call(hooks, "on_train_step_begin", run)
        run.result = update(run.batch, run.step)
        run.data_seconds, run.step_seconds = began - asked, time.perf_counter() - began
        call(hooks, "on_train_step_end", run)
        flush(hooks, run)

        run.step += 1
        last = run.step == run.total_steps
        if last or (evaluate_every and run.step % evaluate_every == 0):
            run.scalars.update({f"val/{name}": value for name, value in evaluation().items()})
            call(hooks, "on_eval_end", run)
            flush(hooks, run)
    call(hooks, "on_train_end", run)


def flush(hooks: Sequence[Hook], run: RunState) -> None:
    """Hand the collected scalars to whoever writes them, once."""
    if run.scalars:
        call(hooks, "on_scalars", run)
        run.scalars.clear()


def call(hooks: Sequence[Hook], moment: str, run: RunState) -> None:
    for hook in hooks:
        getattr(hook, moment)(run)
