"""Dropout whose masks are a function of seed, update, rank and place.

``nn.Dropout`` draws from a generator inside its kernel: all ranks have the same masks, and no resumed run has those of
one that was not cut. Here a mask is a hash of numbers that are the same again, so that a run goes on bit for bit.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from train.runtime import distributed


class Dropout(nn.Cell):
    """In training, set a fraction ``p`` of all elements to 0 and divide the others by 1 - p; float in, the same out.

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting". Which elements, follows
    from the run's seed and the layer's place in the model (NumPy's generator, seeded by ``mindspore.set_seed``), the
    number of training passes up to now (kept in the model's parameter ``passes``, int32 (1,), and so in checkpoints),
    the rank and the element's index.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p={p}: must be at least 0 and below 1")
        self.p = float(p)
        self.threshold = round(p * 2**31)
        self.passes = Parameter(Tensor([0], ms.int32), name="passes", requires_grad=False)
        drawn = int(np.random.randint(2**31))  # noqa: NPY002, the generator that mindspore.set_seed seeds
        self.layer = Tensor([drawn], ms.int32)
        self.rank = Tensor([distributed.rank()], ms.int32)

    def construct(self, x):
        if not self.training or self.p == 0:
            return x
        key = self.mixed(self.mixed(self.passes + self.layer) + self.rank)
        kept = (self.mixed(self.mixed(ops.arange(x.size).astype(ms.int32)) + key) >= self.threshold).astype(x.dtype)
        ops.AssignAdd()(self.passes, Tensor([1], ms.int32))
        return x * kept.reshape(x.shape) / (1.0 - self.p)

    def mixed(self, words):
        """Return int32 words, 0 to 2**31 - 1, of which each bit depends on all bits of the argument's: two rounds of
        multiply and xor. A shift is a division, which every device has for int32; of a negative word it takes the sign
        along, so that the xor clears it."""
        words = ops.bitwise_xor(words, words // (1 << 16)) * 0x7FEB352D
        words = ops.bitwise_xor(words, words // (1 << 15)) * -2073254261
        return ops.bitwise_xor(words, words // (1 << 16))
