"""Loss and gradients of this rank's batch: all at once, or in parts that are added up; and the factor on the loss."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, nn, ops

from train.step.loss import make_loss
from train.step.network import correct_within, count, flipped
from train.step.options import StepOptions
from train.step.parameters import LOSS_SCALE, SINCE_SCALING, step_parameter, zeros
from train.step.reduction import each, times

SMALLEST_SCALE = 1.0
"""A dynamic factor falls no lower, as that of ``mindspore.amp.DynamicLossScaleManager``."""


class Differentiate(nn.Cell):
    """``differentiate(images, targets, lam)`` returns gradients and a tally, float32 (2 + figures,): the loss, weighed
    by the examples' fraction of the global batch, how many answers are correct (0 where targets are no classes), and
    the figures of a user's loss, weighed as the loss is."""

    def __init__(
        self,
        network: nn.Cell,
        parameters: ParameterTuple,
        global_batch: int,
        options: StepOptions,
        counts_correct: bool = True,
    ):
        super().__init__(auto_prefix=False)
        self.network = network.set_train()
        self.global_batch = global_batch
        self.loss = make_loss(options.loss, options.loss_options, options.label_smoothing)
        self.counts_correct = counts_correct
        self.loss_scale = LossScale(options.loss_scale, options.loss_scale_window)
        self.gradients_of = ms.value_and_grad(self.forward, None, parameters, has_aux=True)

    def construct(self, images, targets, lam=None):
        (_, means, outputs), gradients = self.gradients_of(images, targets, lam)
        correct = correct_within(outputs, targets, 1).sum() if self.counts_correct else ops.zeros_like(means[0])
        return gradients, ops.stack((means[0], correct, *means[1:]))

    def forward(self, images, targets, lam):
        """Return what is differentiated, the weighed loss without its scale and its figures, and the outputs."""
        if lam is None:
            outputs = self.network(images)
            means = self.loss.means(outputs, targets)
        else:  # mixup and cutmix: image i with image n-1-i, and the loss of both targets
            pixels = images.astype(ms.float32)
            outputs = self.network(lam * pixels + (1.0 - lam) * ops.flip(pixels, (0,)))
            own_means, others = self.loss.means(outputs, targets), self.loss.means(outputs, flipped(targets))
            means = each(ops.partial(_mixed, lam.mean()), own_means, others)
        means = each(ops.partial(times, count(images) / self.global_batch), means)
        scaled = means[0] * self.loss_scale.factor if self.loss_scale.used else means[0]
        return scaled, means, outputs


def _mixed(weight, one, other):
    return weight * one + (1.0 - weight) * other


class Accumulate(nn.Cell):
    """Called, it adds the gradients and the tally of one part of the batch to buffers; :meth:`take` empties these."""

    def __init__(self, differentiate: Differentiate, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.differentiate = differentiate
        self.sums = zeros("accumulated", parameters)
        self.tally = step_parameter(np.zeros(2 + len(differentiate.loss.figures), np.float32), "accumulated_tally")

    def construct(self, images, targets, lam=None):
        gradients, tally = self.differentiate(images, targets, lam)
        each(ops.AssignAdd(), self.sums, gradients)
        return ops.AssignAdd()(self.tally, tally)

    def take(self, gradients, tally):
        """Return those of the last part with all others added."""
        gradients = each(ops.add, gradients, self.sums)
        tally = tally + self.tally
        each(_clear, self.sums)
        _clear(self.tally)
        return gradients, tally


def _clear(total):
    return ops.Assign()(total, ops.zeros_like(total))


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
        self.factor = step_parameter(np.array(factor, np.float32), LOSS_SCALE)
        self.applied_since = step_parameter(np.array(0, np.int32), SINCE_SCALING)

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
        factor = ops.select(applied, kept_or_grown, ops.maximum(self.factor * 0.5, SMALLEST_SCALE))
        lowered = (factor < self.factor).astype(ms.float32)
        ops.Assign()(self.factor, factor)
        ops.Assign()(self.applied_since, ops.select(grow, ops.zeros_like(since), since))
        return lowered
