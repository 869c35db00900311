"""The loop, in one piece. State t is the state before update t; update t uses lr[t]."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from train import distributed
from train.data.loader import Batch, TrainLoader
from train.hooks import Hook, RunState
from train.step.evaluate import EvaluationStopped, never
from train.step.train_step import StepResult

Update = Callable[[Batch, int, bool], StepResult]
AskedToStop = Callable[[], bool]
Evaluation = Callable[[Callable[[], None], AskedToStop], dict[str, float]]


def train(
    run: RunState,
    update: Update,
    loader: TrainLoader,
    evaluation: Evaluation,
    hooks: Sequence[Hook],
    *,
    evaluate_every: int = 0,
    asked_to_stop: AskedToStop = never,
) -> dict[str, float]:
    """Make the updates ``run.step`` to ``run.total_steps - 1`` and evaluate the last state; or stop on request.

    Args:
        update: makes update t with this rank's batch, :class:`train.step.update.Update`.
        evaluation: see :func:`evaluate`; called every ``evaluate_every`` updates (0: only at the end).
        asked_to_stop: whether this rank was; ``run.stopping`` tells all ranks at the same state.

    Returns the figures of the last evaluation, by name.
    """
    figures: dict[str, float] = {}
    complete = run.step == run.total_steps and not run.evaluation_pending
    call(hooks, "on_train_begin", run)
    if run.evaluation_pending:  # the run was stopped just before
        figures = evaluate(run, evaluation, hooks, asked_to_stop)
        call(hooks, "on_state_complete", run)
    batches = loader.batches(run.step, run.total_steps)
    while run.step < run.total_steps and not run.stopping:
        asked = time.perf_counter()
        run.batch = next(batches)
        began = time.perf_counter()
        call(hooks, "on_train_step_begin", run)
        run.result = update(run.batch, run.step, asked_to_stop())
        run.data_seconds, run.step_seconds = began - asked, time.perf_counter() - began
        call(hooks, "on_train_step_end", run)
        flush(hooks, run)

        run.step += 1
        last = run.step == run.total_steps
        run.evaluation_pending = last or (evaluate_every > 0 and run.step % evaluate_every == 0)
        run.stopping = run.result.stop
        if run.evaluation_pending and not run.stopping:
            figures = evaluate(run, evaluation, hooks, asked_to_stop)
        call(hooks, "on_state_complete", run)
    if complete:  # what it was told before is in the logs already
        figures = evaluate(run, evaluation, hooks, asked_to_stop, log=False)
    call(hooks, "on_train_end", run)
    return figures


def evaluate(
    run: RunState, evaluation: Evaluation, hooks: Sequence[Hook], asked_to_stop: AskedToStop, *, log: bool = True
) -> dict[str, float]:
    """Evaluate state ``run.step`` and return its figures, by name.

    An evaluation that is stopped has no figures; it is still pending in the state that is then saved, so a resumed run
    begins with it.

    Args:
        evaluation: returns the figures of the present weights; calls the first function before each batch, and the
            second to learn whether this rank was asked to stop.
    """
    call(hooks, "on_eval_begin", run)
    try:
        figures = evaluation(lambda: call(hooks, "on_eval_step_begin", run), asked_to_stop)
    except EvaluationStopped:
        run.stopping = True
        return {}
    run.evaluation_pending = False
    run.scalars.update({f"val/{name}": value for name, value in figures.items()})
    call(hooks, "on_eval_end", run)
    if log:
        flush(hooks, run)
    run.scalars.clear()
    run.stopping = distributed.any_rank(asked_to_stop())
    return figures


def flush(hooks: Sequence[Hook], run: RunState) -> None:
    """Hand the collected scalars to whoever writes them, once."""
    if run.scalars:
        call(hooks, "on_scalars", run)
        run.scalars.clear()


def call(hooks: Sequence[Hook], moment: str, run: RunState) -> None:
    for hook in hooks:
        getattr(hook, moment)(run)
