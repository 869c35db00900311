"""Order and sharding: which examples each rank sees at each update, and at evaluation.

The order is a function of (seed, epoch) alone. The epoch's permutation is cut into global batches, and each global
batch into one piece a rank, so ranks never share an example, together they hold exactly the global batch, and the
examples of update t are the same for every world size. Augmentation is a function of (seed, epoch, example) alone.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from train.data.reader import Batch, MakeRng, Reader
from train.data.source import Source
from train.data.view import View
from train.runtime import cores, distributed
from train.runtime.errors import UserError


def reading_threads(asked: int = 0) -> int:
    """Return ``asked``, or where it is 0 this rank's part of the machine's cores (at least 1).

    Collective: every rank tells which cores it may use, so a job whose ranks share all cores and one whose ranks are
    bound to their own come out the same.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    everyone = distributed.gather_json([socket.gethostname(), usable])
    here = [theirs for host, theirs in everyone if host == socket.gethostname()]
    return asked or max(1, int(min(len(set().union(*here)), cores.quota()) / len(here)))


Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``; ``workers`` threads compute at most ``ahead`` items early.

    An exception of ``function`` is raised here, in the caller's thread, when its turn has come. Closing the iterator
    (or dropping it) cancels what has not begun and waits for what has.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


BATCHES_AHEAD = 3


@functools.lru_cache(maxsize=2)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation of ``range(length)`` (int64, read-only) for an epoch; every rank computes the same one."""
    order = np.random.default_rng([seed, epoch]).permutation(length)
    order.setflags(write=False)
    return order


def example_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator that augments one example in one epoch."""
    # The last number keeps it apart from the order's: NumPy pads [seed, epoch] with zeros.
    return np.random.default_rng([seed, epoch, index, 1])


Plan = tuple[np.ndarray, MakeRng | None]
"""The positions that a batch is to hold, and what makes the generator of each."""


def read_ahead(reader: Reader, plans: Iterable[Plan], *, length: int, workers: int) -> Generator[Batch, None, None]:
    """Yield batches of ``length`` as planned, read at most ``BATCHES_AHEAD`` early: all threads share in each."""
    bounds = np.linspace(0, length, min(workers, length) + 1).astype(int).tolist()
    parts = [slice(first, end) for first, end in itertools.pairwise(bounds)]

    def pieces() -> Iterator[tuple[Batch, slice, Plan]]:
        for plan in plans:
            batch = reader.new_batch(length)
            for places in parts:
                yield batch, places, plan

    def read(piece: tuple[Batch, slice, Plan]) -> Batch:
        batch, places, (indices, make_rng) = piece
        reader.fill(batch.part(places), indices[places], make_rng)
        return batch

    done = ordered_map(read, pieces(), workers=workers, ahead=len(parts) * BATCHES_AHEAD)
    for number, batch in enumerate(done, 1):
        if number % len(parts) == 0:
            yield reader.finish(batch, tell=True)


class TrainLoader:
    """This rank's part of every training batch.

    Each epoch drops the tail that does not fill a global batch, so that all ranks make the same number of updates of
    the same size; every epoch drops other examples.

    Args:
        source: a :class:`train.data.Source`, or a :class:`Reader` of one.
        workers: threads that read ahead. They change the speed, never a batch.

    Raises:
        UserError: when the data set cannot fill one global batch, or the batch is smaller than the number of ranks.
    """

    def __init__(
        self,
        source: Source | Reader,
        *,
        global_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
    ):
        self.reader = as_reader(source)
        length = len(self.reader)
        if global_batch < world_size:
            raise UserError(
                f"data.global_batch={global_batch}: at least one example a rank is needed, there are {world_size} ranks"
            )
        if global_batch > length:
            raise UserError(f"data.global_batch={global_batch}: the training set has only {length} examples")
        self.global_batch = global_batch
        self.seed = seed
        self.workers = workers
        # Piece sizes differ by at most one where the batch does not divide evenly.
        bounds = np.linspace(0, global_batch, world_size + 1).astype(int)
        self.start, self.stop = int(bounds[rank]), int(bounds[rank + 1])
        self.steps_per_epoch = length // global_batch

    @property
    def local_batch(self) -> int:
        """Examples of this rank in every batch."""
        return self.stop - self.start

    def indices(self, step: int) -> np.ndarray:
        """Return the positions of this rank's examples of update ``step``, int64 (local_batch,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.reader), self.seed, epoch)
        first = position * self.global_batch
        return order[first + self.start : first + self.stop]

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yield the batches of updates ``start`` to ``stop - 1``."""
        plans = ((self.indices(step), self._make_rng(step)) for step in range(start, stop))
        return read_ahead(self.reader, plans, length=self.local_batch, workers=self.workers)

    def _make_rng(self, step: int) -> MakeRng:
        return functools.partial(example_rng, self.seed, step // self.steps_per_epoch)


class EvalLoader:
    """This rank's part of the validation examples: every example once on exactly one rank, whatever the sizes.

    Batches have one shape (one compiled graph); the last is filled up with padding that no metric counts. All ranks
    have the same number of batches, so that they can exchange something at each; the last may be nothing but padding.
    """

    def __init__(self, source: Source | Reader, *, batch: int, rank: int = 0, world_size: int = 1, workers: int = 1):
        self.reader = as_reader(source)
        self.batch = batch
        self.workers = workers
        self.mine = np.arange(rank, len(self.reader), world_size)
        self.count = -(-len(self.reader) // (batch * world_size))

    def batches(self) -> Generator[Batch, None, None]:
        """Yield the batches in the order of the source."""
        plans = ((self.mine[self.batch * place : self.batch * (place + 1)], None) for place in range(self.count))
        return read_ahead(self.reader, plans, length=self.batch, workers=self.workers)


def as_reader(source: Source | Reader) -> Reader:
    return source if isinstance(source, Reader) else Reader(source, View())
