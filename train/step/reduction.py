"""The sum of gradients over all ranks inside the graph, and their norm.

Gradients are joined into few large buffers: one message costs far more than one parameter's bytes, and so does, on a
card as on a CPU, one operator of a graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

BUCKET_BYTES = 8 << 20
MOST_TENSORS = 200
"""In a bucket: over the sizes that it is given ``SplitWithSize`` has a loop of its own, four calls a turn."""


def make_buckets(sizes: Sequence[int], limit: int, decays: Sequence[float] = ()) -> list[tuple[int, int]]:
    """Split consecutive tensors of ``sizes`` bytes into ranges [start, stop).

    Each has at most ``limit`` bytes and ``MOST_TENSORS`` tensors, or is one tensor; all in it have one of ``decays``.
    """
    buckets, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        other = bool(decays) and decays[index] != decays[start]
        if index > start and (held + size > limit or index - start == MOST_TENSORS or other):
            buckets.append((start, index))
            start, held = index, 0
        held += size
    return [*buckets, (start, len(sizes))] if sizes else []


def each(function, *rows):
    """Return the tuple of ``function`` of the first elements of ``rows``, of the second ones, and so on.

    What is done to each parameter is written with this: of a loop in ``construct`` MindSpore makes three calls within
    each other a turn, and it compiles no more than 1,000; ResNet-110 has 331 parameters. The ``Map`` is made anew each
    time, since one that two graphs share gives the second what was compiled of the first one's function.
    """
    return ops.Map()(function, *rows)


class Buckets(nn.Cell):
    """:meth:`join` copies tensors of the shapes of ``parameters`` into a few flat buffers, :meth:`split` undoes it.

    Args:
        limit: bytes of a buffer, at most, but for that of a single tensor.
        decays: each parameter's weight decay, to be added by :meth:`decayed`; a buffer has one.
    """

    def __init__(self, parameters: Sequence[Parameter], limit: int = BUCKET_BYTES, decays: Sequence[float] = ()):
        super().__init__(auto_prefix=False)
        self.shapes = tuple(p.shape for p in parameters)
        sizes = [int(p.size) for p in parameters]
        self.ranges = tuple(make_buckets([4 * size for size in sizes], limit, decays))
        self.sizes_of = tuple(tuple(sizes[start:stop]) for start, stop in self.ranges)
        self.sizes = [sum(sizes) for sizes in self.sizes_of]
        self.decays = tuple(decays[start] for start, _ in self.ranges) if any(decays) else ()
        # One kernel for each bucket; ops.split makes one for each part, mint.split a copy of each.
        self.cut = SplitWithSize()

    def join(self, tensors):
        """Return one flat buffer for each bucket."""
        rows = each(flat, tensors)
        buffers: tuple = ()
        for start, stop in self.ranges:
            buffers += (ops.concat(rows[start:stop]) if stop - start > 1 else rows[start],)
        return buffers

    def split(self, buffers):
        """Undo :meth:`join`."""
        rows: tuple = ()
        for b in range(len(self.ranges)):
            rows += self.cut(buffers[b], self.sizes_of[b], 0) if len(self.sizes_of[b]) > 1 else (buffers[b],)
        return each(ops.reshape, rows, self.shapes)

    def decayed(self, buffers, weights):
        """Return the buffers with each weight times its decay added: one operator a bucket, not one a parameter."""
        return each(_decayed, self.decays, self.join(weights), buffers)


def _decayed(decay, weights, gradients):
    return gradients + decay * weights if decay else gradients


class Reducer(nn.Cell):
    """``reducer(buffers, tally, stop)`` sums over all ranks flat buffers and one vector that travels with them: the
    tally, how many ranks were asked to stop, and of several ranks for each a 1 if its gradient is bad.

    Args:
        world_size: number of ranks; 1 leaves the communication out of the graph.
        rank: this process's number.
        sizes: elements of each buffer. The last ones are one message, with what travels behind them, as far as they are
            small together: a small network has one exchange.
    """

    def __init__(self, world_size: int, rank: int = 0, sizes: Sequence[int] = (0,)):
        super().__init__(auto_prefix=False)
        self.alone = world_size == 1
        behind = np.cumsum(sizes[::-1])
        self.together = max(1, int((4 * behind <= BUCKET_BYTES).sum()))
        self.sizes = tuple(sizes[-self.together :])
        self.cut = SplitWithSize()
        self.own_place = Tensor(np.arange(world_size) == rank, ms.float32)
        if not self.alone:
            self.all_reduce = ops.AllReduce()

    def construct(self, buffers, tally, stop):
        if self.alone:
            return buffers, ops.concat((tally, stop))
        # Whether this rank's own gradient is finite must be seen before the sum, which is finite on no rank then.
        finite = ops.isfinite(ops.stack(each(_sum, buffers)).sum() + tally[0])
        bad = ops.logical_not(finite).astype(ms.float32) * self.own_place
        last = ops.concat((*buffers[-self.together :], tally, stop, bad))
        summed = each(self.all_reduce, (*buffers[: -self.together], last))
        parts = self.cut(summed[-1], (*self.sizes, tally.shape[0] + 1 + bad.shape[0]), 0)
        return (*summed[:-1], *parts[:-1]), parts[-1]


def norm(tensors):
    """Return the L2 norm of all ``tensors`` together."""
    return ops.sqrt(ops.stack(squares(tensors)).sum())


def squares(tensors):
    """Return the square of the L2 norm of each, each float32 (1,)."""
    return each(flat, each(square_sum, tensors))


def square_sum(tensor):
    return ops.square(tensor.astype(ms.float32)).sum()


def flat(tensor):
    return tensor.reshape(-1)


def times(factor, tensor):
    """Return the product; in a graph, ``times(1.0, parameter)`` is a copy of what the parameter holds now."""
    return tensor * factor


def picked(tensors, place):
    return tensors[place]


def _sum(tensor):
    return tensor.sum()
