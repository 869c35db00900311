"""Loss and gradients of this rank's batch: all at once, or in parts that are added up."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, nn, ops

from train.step.loss import make_loss
from train.step.loss_scale import LossScale
from train.step.network import correct_within, count, flipped
from train.step.options import StepOptions
from train.step.own import own, zeros


class Differentiate(nn.Cell):
    """``differentiate(images, targets, lam)`` returns gradients and a tally, float32 (2 + figures,): the loss, weighed
    by the examples' fraction of the global batch, how many answers are correct (0 where targets are no classes), and
    the figures of a reader's loss, weighed as the loss is."""

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
        (_, loss, figures, outputs), gradients = self.gradients_of(images, targets, lam)
        if not self.counts_correct:
            return gradients, ops.stack((loss, ops.zeros_like(loss), *figures))
        return gradients, ops.stack((loss, correct_within(outputs, targets, 1).sum(), *figures))

    def forward(self, images, targets, lam):
        """Return what is differentiated, the loss without its scale, its figures, and what the network gives."""
        if lam is None:
            outputs = self.network(images)
            loss, figures = self.loss.mean(outputs, targets)
        else:  # mixup and cutmix: image i with image n-1-i, and the loss of both targets
            pixels = images.astype(ms.float32)
            outputs = self.network(lam * pixels + (1.0 - lam) * ops.flip(pixels, (0,)))
            weight = lam.mean()
            own_loss, own_figures = self.loss.mean(outputs, targets)
            other, other_figures = self.loss.mean(outputs, flipped(targets))
            loss = weight * own_loss + (1.0 - weight) * other
            figures = ()
            for i in range(len(own_figures)):
                figures += (weight * own_figures[i] + (1.0 - weight) * other_figures[i],)
        fraction = count(images) / self.global_batch
        loss = loss * fraction
        weighed: tuple = ()
        for figure in figures:
            weighed += (figure * fraction,)
        if self.loss_scale.used:
            return loss * self.loss_scale.factor, loss, weighed, outputs
        return loss, loss, weighed, outputs


class Accumulate(nn.Cell):
    """Called, it adds the gradients and the tally of one part of the batch to buffers; :meth:`take` empties these."""

    def __init__(self, differentiate: Differentiate, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.differentiate = differentiate
        self.sums = zeros("accumulated", parameters)
        self.tally = own(np.zeros(2 + len(differentiate.loss.figures), np.float32), "accumulated_tally")
        self.map = ops.Map()

    def construct(self, images, targets, lam=None):
        gradients, tally = self.differentiate(images, targets, lam)
        self.map(ops.assign_add, self.sums, gradients)
        return ops.assign_add(self.tally, tally)

    def take(self, gradients, tally):
        """Return those of the last part with all others added."""
        gradients = self.map(ops.add, gradients, self.sums)
        tally = tally + self.tally
        self.map(_clear, self.sums)
        _clear(self.tally)
        return gradients, tally


def _clear(total):
    return ops.assign(total, ops.zeros_like(total))
