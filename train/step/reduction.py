"""The sum of gradients over all ranks inside the graph, and their norm.

Gradients are joined into few large buffers: one message costs far more than one parameter's bytes, and so does, on a
CPU, one operator of a graph.
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


def make_buckets(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Split consecutive tensors of ``sizes`` bytes into ranges [start, stop).

    Each has at most ``limit`` bytes and ``MOST_TENSORS`` tensors, or is one tensor.
    """
    buckets, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and (held + size > limit or index - start == MOST_TENSORS):
            buckets.append((start, index))
            start, held = index, 0
        held += size
    return [*buckets, (start, len(sizes))]


class Reducer(nn.Cell):
    """``reducer(buffers, tally, stop, finite)`` sums over all ranks what :meth:`join` has joined, and one vector
    that travels with it: the tally, how many ranks were asked to stop, and for each rank a 1 if its gradient is bad.

    Args:
        parameters: those whose gradients are summed.
        world_size: number of ranks; 1 leaves the communication out of the graph.
        rank: this process's number.
        bucket_bytes: size of a buffer, at most.
    """

    def __init__(
        self, parameters: Sequence[Parameter], world_size: int, rank: int = 0, bucket_bytes: int = BUCKET_BYTES
    ):
        super().__init__()
        self.alone = world_size == 1
        self.own_place = Tensor(np.arange(world_size) == rank, ms.float32)
        self.shapes = tuple(p.shape for p in parameters)
        sizes = [int(p.size) for p in parameters]
        self.ranges = tuple(make_buckets([4 * size for size in sizes], bucket_bytes))
        self.sizes_of = tuple(tuple(sizes[start:stop]) for start, stop in self.ranges)
        # One kernel for each bucket; ops.split makes one for each part, mint.split a copy of each.
        self.cut = SplitWithSize()
        self.map = ops.Map()
        if not self.alone:
            self.all_reduce = ops.AllReduce()

    def construct(self, buffers, tally, stop, finite):
        bad = ops.logical_not(finite).astype(ms.float32) * self.own_place
        extra = ops.concat((tally, stop, bad))
        if not self.alone:
            buffers, extra = self.exchanged(buffers, extra)
        return buffers, extra

    def exchanged(self, buffers, extra):
        """Return both summed; the extras travel behind the last buffer, one exchange for all."""
        summed: tuple = ()
        for i in range(len(buffers) - 1):
            summed += (self.all_reduce(buffers[i]),)
        last = self.all_reduce(ops.concat((buffers[-1], extra)))
        length = buffers[-1].shape[0]
        return (*summed, last[:length]), last[length:]

    def join(self, gradients):
        """Return one flat buffer for each bucket."""
        flat = self.map(_flat, gradients)
        buffers: tuple = ()
        for start, stop in self.ranges:
            buffers += (ops.concat(flat[start:stop]) if stop - start > 1 else flat[start],)
        return buffers

    def split(self, buffers):
        """Undo :meth:`join`."""
        flat: tuple = ()
        for b in range(len(self.ranges)):
            flat += self.cut(buffers[b], self.sizes_of[b], 0) if len(self.sizes_of[b]) > 1 else (buffers[b],)
        return self.map(ops.reshape, flat, self.shapes)


def _flat(tensor):
    return tensor.reshape(-1)


def norm(tensors):
    """Return the L2 norm of all ``tensors`` together."""
    squares: tuple = ()
    for tensor in tensors:
        squares += (square_sum(tensor),)
    return ops.sqrt(ops.stack(squares).sum())


def square_sum(tensor):
    """Return the square of the L2 norm, as float32."""
    return ops.square(tensor.astype(ms.float32)).sum()


def times(factor, tensor):
    """Return the product; in a graph, ``times(1.0, parameter)`` is a copy of what the parameter holds now."""
    return tensor * factor
