"""The factor on the loss, constant or dynamic."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from train.step.own import LOSS_SCALE, SINCE_SCALING, own

MINIMUM = 1.0
"""A dynamic factor falls no lower, as that of ``mindspore.amp.DynamicLossScaleManager``."""


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
        self.factor = own(np.array(factor, np.float32), LOSS_SCALE)
        self.applied_since = own(np.array(0, np.int32), SINCE_SCALING)

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
