"""The sum of gradients over all ranks inside the graph, the norm of them all together, and the factor on the loss.

Gradients are joined into few large buffers: one message costs far more than one parameter's bytes, and so does, on a
CPU, one operator of a graph.

What is done to each parameter is done by ``ops.Map``, here and in all of the step: of a loop in ``construct`` MindSpore
makes three calls within each other a turn, and compiles no more than 1,000; ResNet-110 has 331 parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
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


class Buckets(nn.Cell):
    """Join gradients into buffers, sum these over all ranks, and take them apart again."""

    def __init__(self, parameters: Sequence[Parameter], world_size: int, bucket_bytes: int = BUCKET_BYTES):
        super().__init__()
        self.alone = world_size == 1
        self.shapes = tuple(p.shape for p in parameters)
        self.sizes = tuple(int(p.size) for p in parameters)
        self.ranges = tuple(make_buckets([4 * size for size in self.sizes], bucket_bytes))
        self.sizes_of = tuple(self.sizes[start:stop] for start, stop in self.ranges)
        # One kernel for each bucket; ops.split makes one for each part, mint.split a copy of each.
        self.cut = SplitWithSize()
        self.map = ops.Map()
        if not self.alone:
            self.all_reduce = ops.AllReduce()

    def join(self, gradients):
        """Return one flat buffer for each bucket."""
        flat = self.map(_flat, gradients)
        buffers: tuple = ()
        for start, stop in self.ranges:
            buffers += (ops.concat(flat[start:stop]) if stop - start > 1 else flat[start],)
        return buffers

    def sum_over_ranks(self, buffers, extra):
        """Return the summed buffers and the summed ``extra`` (1-D), which travels behind the last one."""
        if self.alone:
            return buffers, extra
        summed: tuple = ()
        for i in range(len(buffers) - 1):
            summed += (self.all_reduce(buffers[i]),)
        last = self.all_reduce(ops.concat((buffers[-1], extra)))
        length = buffers[-1].shape[0]
        return (*summed, last[:length]), last[length:]

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


MINIMUM = 1.0
"""A dynamic factor falls no lower, as that of ``mindspore.amp.DynamicLossScaleManager``."""
LOSS_SCALE_PARAMETERS = ("train_step.loss_scale", "train_step.updates_since_scaling")


class LossScale(nn.Cell):
    """A factor on the loss against float16's underflow (Micikevicius et al. 2018, arXiv:1710.03740).

    The loss is multiplied and the gradients are divided by ``factor``, float32 ().

    With a ``window`` it is dynamic: it starts too large by design, is halved with each update that is skipped, and
    doubles after ``window`` applied ones in a row, as long as it stays finite. A skip that lowers it is a step of that
    search; at the minimum, it means what it means without a factor. 0: the factor stays as it is.
    """

    def __init__(self, factor: float, window: int):
        super().__init__(auto_prefix=False)
        self.used = factor != 1.0 or window > 0
        self.window = window
        self.factor = Parameter(Tensor(factor, ms.float32), name=LOSS_SCALE_PARAMETERS[0], requires_grad=False)
        self.applied_since = Parameter(Tensor(0, ms.int32), name=LOSS_SCALE_PARAMETERS[1], requires_grad=False)

    def construct(self, applied):
        """Learn whether the update was applied (bool); return float32 (): 1 if that lowered the factor, else 0."""
        if not self.window:
            return ops.zeros_like(self.factor)
        since = ops.select(applied, self.applied_since + 1, ops.zeros_like(self.applied_since))
        grown = self.factor * 2.0
        # Infinity would stay: half of it is infinity too.
        grow = ops.logical_and(since >= self.window, ops.isfinite(grown))
        # A product makes a tensor of its own: what is compared below must not be the parameter after its assignment.
        kept_or_grown = ops.select(grow, grown, self.factor * 1.0)
        factor = ops.select(applied, kept_or_grown, ops.maximum(self.factor * 0.5, MINIMUM))
        lowered = (factor < self.factor).astype(ms.float32)
        ops.assign(self.factor, factor)
        ops.assign(self.applied_since, ops.select(grow, ops.zeros_like(since), since))
        return lowered
