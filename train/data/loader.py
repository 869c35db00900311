"""Order and sharding: which examples each rank sees at each update, and at evaluation.

The order is a function of (seed, epoch) alone. The epoch's permutation is cut into global batches, and each global
batch into one piece a rank, so ranks never share an example, together they hold exactly the global batch, and the
examples of update t are the same for every world size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from train.data import Source
from train.errors import UserError


class Batch(NamedTuple):
    """One rank's part of a batch."""

    images: np.ndarray
    """uint8, (n, channels, height, width)"""
    labels: np.ndarray
    """int32, (n,); -1 marks padding"""
    indices: np.ndarray
    """int64, (n,): positions in the source; -1 marks padding"""


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation of ``range(length)`` (int64) for an epoch; every rank computes the same one."""
    return np.random.default_rng([seed, epoch]).permutation(length)


class TrainLoader:
    """This rank's part of every training batch.

    Each epoch drops the tail that does not fill a global batch, so that all ranks make the same number of updates of
    the same size; every epoch drops other examples.

    Raises:
        UserError: when the data set cannot fill one global batch, or the batch is smaller than the number of ranks.
    """

    def __init__(self, source: Source, *, global_batch: int, seed: int, rank: int = 0, world_size: int = 1):
        if global_batch < world_size:
            raise UserError(
                f"data.global_batch={global_batch}: at least one image a rank is needed, there are {world_size} ranks"
            )
        if global_batch > len(source):
            raise UserError(f"data.global_batch={global_batch}: the training set has only {len(source)} images")
        self.source = source
        self.global_batch = global_batch
        self.seed = seed
        # Piece sizes differ by at most one where the batch does not divide evenly.
        bounds = np.linspace(0, global_batch, world_size + 1).astype(int)
        self.start, self.stop = int(bounds[rank]), int(bounds[rank + 1])
        self.steps_per_epoch = len(source) // global_batch

    @property
    def local_batch(self) -> int:
        """Images of this rank in every batch."""
        return self.stop - self.start

    def indices(self, step: int) -> np.ndarray:
        """Return the positions of this rank's examples of update ``step``, int64 (local_batch,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.source), self.seed, epoch)
        first = position * self.global_batch
        return order[first + self.start : first + self.stop]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of updates ``start`` to ``stop - 1``."""
        for step in range(start, stop):
            indices = self.indices(step)
            yield Batch(*self.source.read(indices), indices)


class EvalLoader:
    """This rank's part of the held-out examples: every example once on exactly one rank, whatever the sizes.

    Batches have one shape (one compiled graph); the last is filled up with padding that no metric counts. Ranks may
    have different numbers of batches: evaluation communicates only after the last.
    """

    def __init__(self, source: Source, *, batch: int, rank: int = 0, world_size: int = 1):
        self.source = source
        self.batch = batch
        self.mine = np.arange(rank, len(source), world_size)

    def batches(self) -> Iterator[Batch]:
        for first in range(0, len(self.mine), self.batch):
            indices = self.mine[first : first + self.batch]
            missing = self.batch - len(indices)
            images, labels = self.source.read(indices)
            yield Batch(
                np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)]),
                np.concatenate([labels, np.full(missing, -1, labels.dtype)]),
                np.concatenate([indices, np.full(missing, -1, indices.dtype)]),
            )
