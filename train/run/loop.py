"""The loop, in one piece. State t is the state before update t; update t uses lr[t]."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from train.data.loader import Batch, TrainLoader
from train.hooks import Hook, RunState
from train.runtime import cores, distributed
from train.runtime.errors import FiguresError
from train.step.evaluate import EvaluationStopped, never
from train.step.result import StepResult

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
    """Make the updates ``run.step`` to ``run.total_steps - 1`` and evaluate the last state; or stop on request: of a
    signal, without an evaluation, to be resumed; of a hook, as if that were the end.

    Args:
        update: makes update t with this rank's batch, :class:`train.step.update.Update`.
        evaluation: see :func:`evaluate`; called every ``evaluate_every`` updates (0: only at the end).
        asked_to_stop: whether this rank was; ``run.stopping`` tells all ranks at the same state.

    Returns the figures of the last evaluation, by name.
    """
    figures: dict[str, float] = {}
    complete = (run.step == run.total_steps or run.ended is not None) and not run.evaluation_pending
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
        run.result = update(run.batch, run.step, asked_to_stop() or run.stop_reason is not None)
        run.data_seconds, run.step_seconds = began - asked, time.perf_counter() - began
        cores.spread()  # the first update has made the threads
        call(hooks, "on_train_step_end", run)
        flush(hooks, run)

        run.step += 1
        last = run.step == run.total_steps
        run.evaluation_pending = last or (evaluate_every > 0 and run.step % evaluate_every == 0)
        if run.result.stop:
            learn_why(run, asked_to_stop)
        run.evaluation_pending |= run.ended is not None
        if run.evaluation_pending and (run.ended is not None or not run.stopping):
            figures = evaluate(run, evaluation, hooks, asked_to_stop)
        call(hooks, "on_state_complete", run)
    if complete:  # what it was told before is in the logs already
        figures = evaluate(run, evaluation, hooks, asked_to_stop, log=False)
    if run.ended is not None and run.rank == 0:
        print(f"ended after {run.step} of {run.total_steps} updates: {run.ended}", flush=True)
    call(hooks, "on_train_end", run)
    return figures


def evaluate(
    run: RunState, evaluation: Evaluation, hooks: Sequence[Hook], asked_to_stop: AskedToStop, *, log: bool = True
) -> dict[str, float]:
    """Evaluate state ``run.step`` and return its figures, by name.

    An evaluation that is stopped has no figures; it is still pending in the state that is then saved, so a resumed run
    begins with it.

    Raises:
        FiguresError: when there are none to be had; the hooks have been told.

    Args:
        evaluation: returns the figures of the present weights; calls the first function before each batch, and the
            second to learn whether this rank was asked to stop.
    """
    call(hooks, "on_eval_begin", run)
    try:
        figures = evaluation(lambda: call(hooks, "on_eval_step_begin", run), asked_to_stop)
        run.evaluation_pending = False
        run.scalars.update({f"val/{name}": value for name, value in figures.items()})
        call(hooks, "on_eval_end", run)
    except EvaluationStopped:
        run.stopping, run.ended = True, None
        return {}
    except FiguresError:  # all that was trained would be lost
        run.evaluation_pending = True
        call(hooks, "on_eval_failed", run)
        raise
    if log:
        flush(hooks, run)
    run.scalars.clear()
    learn_why(run, asked_to_stop)
    return figures


def learn_why(run: RunState, asked_to_stop: AskedToStop) -> None:
    """Learn whether any rank's process (by a signal, which comes first) or hook wants the run to end. Collective."""
    ranks = distributed.gather_json([asked_to_stop(), run.stop_reason])
    signalled = any(asked for asked, _ in ranks)
    reason = next((reason for _, reason in ranks if reason is not None), None)
    run.stopping = signalled or reason is not None
    run.ended = None if signalled else reason


def flush(hooks: Sequence[Hook], run: RunState) -> None:
    """Hand what was collected to whoever writes it, once."""
    if run.scalars or run.media:
        run.settle_scalars()
        call(hooks, "on_scalars", run)
        run.scalars.clear()
        run.media.clear()


def call(hooks: Sequence[Hook], moment: str, run: RunState) -> None:
    for hook in hooks:
        getattr(hook, moment)(run)
