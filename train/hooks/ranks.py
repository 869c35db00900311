"""What differs between ranks: their own loss and their own times, in few curves and one folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train import distributed
from train.hooks.base import Hook, RunState, Scalars

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

    It is one message of three numbers; a world of one sends and logs nothing.
    """

    def __init__(self, every: int):
        self.every = every
        self._compiled = False

    def on_train_step_end(self, run: RunState) -> None:
        first, self._compiled = not self._compiled, True
        if first or run.world_size == 1 or run.result is None or run.batch is None or run.step % self.every:
            return
        own_loss = run.result.own_loss * run.global_batch / len(run.batch.labels)
        own = np.array([1e3 * run.step_seconds, 1e3 * run.data_seconds, own_loss])
        for (figure, words), values in zip(FIGURES.items(), distributed.gather_array(own).T, strict=True):
            run.scalars.update(summarised(f"ranks/{figure}", words, values))


def summarised(tag: str, words: Sequence[str], values: np.ndarray) -> Scalars:
    """Largest, mean and smallest of ``values``, float64 (world_size,), and which rank has the largest."""
    figures = (values.max(), values.mean(), values.min())
    named = {f"{tag}/{word}": float(value) for word, value in zip(words, figures, strict=True)}
    return named | {f"{tag}/rank": float(np.argmax(values))}
