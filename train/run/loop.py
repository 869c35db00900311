"""The loop, in one piece. State t is the state before update t; update t uses lr[t].

What an update reports is read after the next one has been handed over, so that the device always has work; and at once
where its state is needed: before an evaluation, at the end, and where a hook says so (``wants_state``), as for a save.
A hook that asks for ``run.result`` itself, as for a snapshot, waits for it there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from train.data.loader import Batch, TrainLoader
from train.hooks import Hook, RunState
from train.hooks.runstate import Ending, UpdateRecord
from train.runtime import distributed
from train.runtime.errors import FiguresError
from train.step.evaluate import EvaluationStopped
from train.step.report import Reported

Feed = Callable[[Batch, int, bool], Reported]
Evaluation = Callable[[Callable[[], None], Callable[[], bool]], dict[str, float]]


def train(
    run: RunState,
    feed: Feed,
    loader: TrainLoader,
    evaluation: Evaluation,
    hooks: Sequence[Hook],
    *,
    evaluate_every: int = 0,
) -> dict[str, float]:
    """Make the updates from ``run.step`` on until ``run.ending`` says why it ends, and evaluate the last state; after a
    signal it is not evaluated, since the run is to be resumed.

    Args:
        feed: hands update t with this rank's batch to the device, :class:`train.step.feeder.Feeder`.
        evaluation: see :func:`evaluate`; called every ``evaluate_every`` updates (0: only at the end).

    All ranks learn from the result of the same update that ``run.asked_to_stop`` was true on one of them.

    Returns the figures of the last evaluation, by name.
    """
    figures: dict[str, float] = {}
    if run.step == run.total_steps:
        run.ending = run.ending or Ending("schedule")
    was_evaluated = run.ending is not None and not run.evaluation_pending
    call(hooks, "on_train_begin", run)
    if run.evaluation_pending:  # the run was stopped just before
        figures = evaluate(run, evaluation, hooks)
        call(hooks, "on_state_complete", run)
    batches = loader.batches(run.step, run.total_steps)
    unread: UpdateRecord | None = None  # the update whose result is still to be read
    while run.ending is None:
        # ---- hand update t to the device
        asked = time.perf_counter()
        run.batch = next(batches)
        run.began = time.perf_counter()
        run.data_seconds = run.began - asked
        call(hooks, "on_train_step_begin", run)
        run.reported = feed(run.batch, run.step, run.asked_to_stop() or run.stop_reason is not None)

        # ---- meanwhile, look at update t-1; it may say that t is the last
        if unread is not None:
            read_result(run, unread, hooks, until=asked)
        call(hooks, "on_train_step_end", run)
        unread = run.set_aside()

        # ---- state t+1: is it the last, or to be evaluated or saved?
        run.step += 1
        if run.step == run.total_steps:
            run.ending = run.ending or Ending("schedule")
        run.evaluation_pending = evaluate_every > 0 and run.step % evaluate_every == 0
        if run.ending or run.evaluation_pending or any(hook.wants_state(run) for hook in hooks):
            read_result(run, unread, hooks)
            unread = None
        # The last state is evaluated, after a signal by the resumed run, which begins with it.
        run.evaluation_pending |= run.ending is not None and (run.ending.complete or run.step == run.total_steps)
        if run.evaluation_pending and (run.ending is None or run.ending.complete):
            figures = evaluate(run, evaluation, hooks)
        call(hooks, "on_state_complete", run)
    if was_evaluated:  # by an earlier process, which logged the figures
        figures = evaluate(run, evaluation, hooks, log=False)
    if run.ending.by == "hook" and run.rank == 0:
        print(f"ended after {run.step} of {run.total_steps} updates: {run.ending.reason}", flush=True)
    call(hooks, "on_train_end", run)
    return figures


def read_result(run: RunState, update: UpdateRecord, hooks: Sequence[Hook], until: float | None = None) -> None:
    """Read what ``update`` reported, which waits for the device, log its figures at its own x, and learn from them
    whether the run ends.

    Args:
        until: the clock when the next batch was asked for; None: the update took until now.
    """
    result = update.result
    assert result is not None
    update.step_seconds = (until or time.perf_counter()) - update.began
    with run.back_in(update):
        call(hooks, "on_result", run)
        flush(hooks, run)
    if result.stop:
        learn_ending(run)


def evaluate(run: RunState, evaluation: Evaluation, hooks: Sequence[Hook], *, log: bool = True) -> dict[str, float]:
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
        figures = evaluation(lambda: call(hooks, "on_eval_step_begin", run), run.asked_to_stop)
        run.evaluation_pending = False
        run.scalars.update({f"val/{name}": value for name, value in figures.items()})
        call(hooks, "on_eval_end", run)
    except EvaluationStopped:
        run.ending = Ending("signal")
        return {}
    except FiguresError:  # all that was trained would be lost
        run.evaluation_pending = True
        call(hooks, "on_eval_failed", run)
        raise
    if log:
        flush(hooks, run)
    run.scalars.clear()
    learn_ending(run)  # a hook may have asked for it in `on_eval_end`
    return figures


def learn_ending(run: RunState) -> None:
    """Learn whether any rank's process (by a signal, which comes first) or hook wants the run to end. Collective."""
    ranks = distributed.gather_json([run.asked_to_stop(), run.stop_reason])
    reason = next((reason for _, reason in ranks if reason is not None), None)
    if any(signalled for signalled, _ in ranks):
        run.ending = Ending("signal")
    elif reason is not None and run.ending is None:
        run.ending = Ending("hook", reason)


def flush(hooks: Sequence[Hook], run: RunState) -> None:
    """Hand what was collected to whoever writes it, once."""
    if run.scalars or run.media:
        run.make_numbers()
        call(hooks, "on_scalars", run)
        run.scalars.clear()
        run.media.clear()


def call(hooks: Sequence[Hook], moment: str, run: RunState) -> None:
    for hook in hooks:
        getattr(hook, moment)(run)
