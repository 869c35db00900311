"""Scalars of a run: what is measured at each update, how the ranks differ in it, and the file it is written to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.hooks.base import Hook
from train.hooks.runstate import RunState, Scalars
from train.rundir.metrics import MetricsWriter
from train.runtime import distributed
from train.step.optimizer import learning_rates


class TrainScalars(Hook):
    """Measure loss, accuracy, learning rate, norms and speed every ``every`` updates (0: never).

    The first update of a process compiles the graph; its time is a figure of its own and in no other.
    For a recorded layer, ``update/<layer>/predicted_l2`` is lr·‖v‖, to be compared with the measured ``delta_l2``; an
    optimizer without momentum has no velocity v.
    """

    def __init__(self, every: int = 1):
        self.every = every
        self._compiled = False
        self._rates: dict[str, np.ndarray] = {}

    def on_result(self, run: RunState) -> None:
        first, self._compiled = not self._compiled, True
        if run.result is None or not self.every or run.step % self.every:
            return
        for layer, norms in run.result.update_norms.items():
            run.scalars.update(
                {
                    f"update/{layer}/delta_l2": norms.delta,
                    f"update/{layer}/weight_l2": norms.weight,
                    f"update/{layer}/ratio": norms.delta / norms.weight if norms.weight else 0.0,
                }
            )
            if norms.velocity is not None:
                run.scalars[f"update/{layer}/velocity_l2"] = norms.velocity
                run.scalars[f"update/{layer}/predicted_l2"] = self._lr_of(run, layer) * norms.velocity
        whole = run.step_seconds + run.data_seconds
        run.scalars.update(
            {
                "train/loss": run.result.loss,
                "train/lr": run.result.lr,
                **({} if run.result.top1 is None else {"train/top1": run.result.top1}),
                "train/grad_norm": run.result.grad_norm,
                **{f"train/loss/{name}": value for name, value in run.result.figures.items()},
                **{f"train/lr/{group}": value for group, value in run.result.group_lr.items()},
                **{f"update/{layer}/gradient_l2": value for layer, value in run.result.layer_gradients.items()},
            }
        )
        if first:
            run.scalars["perf/first_update_s"] = run.step_seconds
            return
        run.scalars.update(
            {
                "perf/examples_per_sec": run.global_batch / whole,
                "perf/step_ms": 1e3 * run.step_seconds,
                "perf/data_wait": run.data_seconds / whole,
            }
        )

    def _lr_of(self, run: RunState, layer: str) -> float:
        assert run.result is not None
        if not run.result.group_lr:
            return run.result.lr
        self._rates = self._rates or learning_rates(run.optimizer)
        return float(self._rates[layer][run.step])


class MetricsFile(Hook):
    """Append every logged scalar to ``metrics.jsonl``, on rank 0."""

    _bytes = 0
    """Length of the file when the state that the run starts from was saved: what stands behind is logged again."""

    _file: MetricsWriter | None = None
    """On rank 0."""

    def state(self) -> int:
        return self._file.length if self._file else 0

    def restore(self, state: int) -> None:
        if type(state) is not int or state < 0:
            raise ValueError(f"{state!r} is no number of bytes")
        self._bytes = state

    def on_train_begin(self, run: RunState) -> None:
        if run.rank == 0:
            self._file = MetricsWriter(run.run_dir, keep_bytes=self._bytes if run.continues else 0)

    def on_scalars(self, run: RunState) -> None:
        if self._file and run.scalars:
            self._file.write(run.step, run.scalars)

    def on_save(self, run: RunState) -> None:
        if self._file:
            self._file.sync()

    def on_train_end(self, run: RunState) -> None:
        if self._file:
            self._file.close()


# The words for the largest, the mean and the smallest of the ranks' figures.
TIMES = ("slowest", "mean", "fastest")
LOSSES = ("highest", "mean", "lowest")
FIGURES: dict[str, Sequence[str]] = {"step_ms": TIMES, "data_wait_ms": TIMES, "loss": LOSSES}
"""Each is logged as ``ranks/<figure>/<word>``, and the number of the slowest (highest) rank as ``ranks/<figure>/rank``.

``step_ms`` is the wall time of the update, in which ranks wait for each other; so the rank that holds up the others is
the one with the longest ``data_wait_ms``, or, where data is ready, no rank stands out. ``loss`` is the mean over the
rank's own images."""


class RankFigures(Hook):
    """Gather the ranks' figures every ``every`` updates, but for the first of a process, which compiles.

    It is one message of three numbers; a single process sends and logs nothing.
    """

    def __init__(self, every: int):
        self.every = every
        self._compiled = False

    def on_result(self, run: RunState) -> None:
        first, self._compiled = not self._compiled, True
        if first or run.world_size == 1 or not self.every or run.step % self.every:
            return
        assert run.result is not None and run.batch is not None
        own_loss = run.result.own_loss * run.global_batch / len(run.batch.indices)
        own = np.array([1e3 * run.step_seconds, 1e3 * run.data_seconds, own_loss])
        for (figure, words), values in zip(FIGURES.items(), distributed.gather_array(own).T, strict=True):
            run.scalars.update(summarised(f"ranks/{figure}", words, values))


def summarised(tag: str, words: Sequence[str], values: np.ndarray) -> Scalars:
    """Largest, mean and smallest of ``values``, float64 (world_size,), and which rank has the largest."""
    figures = (values.max(), values.mean(), values.min())
    named = {f"{tag}/{word}": float(value) for word, value in zip(words, figures, strict=True)}
    return named | {f"{tag}/rank": float(np.argmax(values))}
