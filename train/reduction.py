"""The sum of gradients over all ranks, inside the graph."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, nn, ops

# Gradients travel in few large buffers: one message costs far more than one parameter's bytes.
BUCKET_BYTES = 8 << 20


def make_buckets(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Split consecutive tensors of ``sizes`` bytes into ranges [start, stop) of at most ``limit`` bytes, or of one."""
    buckets, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and held + size > limit:
            buckets.append((start, index))
            start, held = index, 0
        held += size
    return [*buckets, (start, len(sizes))]


class GradientSum(nn.Cell):
    """Sum gradients over all ranks: tensors are joined into buckets, one all-reduce for each bucket."""

    def __init__(self, parameters: Sequence[Parameter], world_size: int, bucket_bytes: int = BUCKET_BYTES):
        super().__init__()
        self.alone = world_size == 1
        self.shapes = tuple(p.shape for p in parameters)
        self.sizes = tuple(int(p.size) for p in parameters)
        self.buckets = tuple(make_buckets([4 * size for size in self.sizes], bucket_bytes))
        if not self.alone:
            self.all_reduce = ops.AllReduce()

    def construct(self, gradients, extra):
        """Return the summed gradients and the summed ``extra`` (1-D), which travels in the last bucket."""
        if self.alone:
            return gradients, extra
        summed: tuple = ()
        total = extra
        for bucket in self.buckets:
            start, stop = bucket
            parts: tuple = ()
            for i in range(start, stop):
                parts += (gradients[i].reshape(-1),)
            if stop == len(self.sizes):
                parts += (extra,)
            buffer = self.all_reduce(ops.concat(parts))
            offset = 0
            for i in range(start, stop):
                summed += (buffer[offset : offset + self.sizes[i]].reshape(self.shapes[i]),)
                offset += self.sizes[i]
            if stop == len(self.sizes):
                total = buffer[offset:]
        return summed, total
