"""One update as one compiled graph.

Forward, backward, all-reduced mean gradient, guard, and ``nn.Momentum`` holding the whole schedule as its learning-rate
tensor, so that the kernel itself picks ``lr[t]`` by its own ``global_step``:

    v_t = momentum * v_(t-1) + g_t        W_(t+1) = W_t - lr_t * v_t

``g_t`` is the mean gradient over the global batch (plus weight decay): each rank weighs its own mean by its share of
the global batch, and the ranks' parts are summed. That is the mean of the ranks' gradients where all have the same
number of images, and still exact where the global batch does not divide evenly. The extras of :class:`StepOptions` that
are off leave nothing in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from train.step.network import correct_within, moving_statistics
from train.step.options import StepOptions
from train.step.reduction import Buckets, LossScale, norm, square_sum


class Move(NamedTuple):
    """L2 norms of one layer's update."""

    delta: float
    """‖W_start - W_new‖, measured"""
    velocity: float
    """‖v_t‖ of the velocity the update used"""
    weight: float
    """‖W_start‖"""


class StepResult(NamedTuple):
    """What an update reports, reduced over all ranks and so the same on every rank, but for ``own_loss``."""

    loss: float
    """Mean training loss over the global batch, in nats (with label smoothing and mixing, where they are on)."""
    top1: float
    """Share of the global batch classified correctly, before the update."""
    grad_norm: float
    """L2 norm of the reduced mean gradient, before clipping and without weight decay."""
    lr: float
    """The learning rate that the optimizer read from its own tensor for this update."""
    applied: bool
    """False when the loss or the gradient was not finite: the update was skipped on every rank."""
    own_loss: float = 0.0
    """This rank's part of ``loss``: all ranks' parts sum to it."""
    stop: bool = False
    """True when any rank was asked to stop: all ranks learn it at the same update."""
    bad_ranks: tuple[int, ...] = ()
    """Ranks whose own gradient was not finite."""
    scale_lowered: bool = False
    """True when the update was skipped and a dynamic loss scale fell, as it does while it looks for its size."""
    moves: Mapping[str, Move] = MappingProxyType({})
    """How far each watched layer moved, by parameter name."""


class ForwardBackward(nn.Cell):
    """Loss, correct answers and gradients of one part of the batch, weighed by the part's share of the global batch."""

    def __init__(self, network: nn.Cell, parameters: ParameterTuple, global_batch: int, options: StepOptions):
        super().__init__(auto_prefix=False)
        self.network = network.set_train()
        self.global_batch = global_batch
        self.label_smoothing = options.label_smoothing
        self.loss_scale = LossScale(options.loss_scale, options.loss_scale_window)
        self.differentiate = ms.value_and_grad(self.forward, None, parameters, has_aux=True)

    def cross_entropy(self, logits, labels):
        return ops.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def forward(self, images, labels, own_share):
        if own_share is None:
            logits = self.network(images)
            loss = self.cross_entropy(logits, labels)
        else:
            pixels = images.astype(ms.float32)
            logits = self.network(own_share * pixels + (1.0 - own_share) * ops.flip(pixels, (0,)))
            share = own_share.mean()
            own = self.cross_entropy(logits, labels)
            loss = share * own + (1.0 - share) * self.cross_entropy(logits, ops.flip(labels, (0,)))
        loss = loss * (images.shape[0] / self.global_batch)
        if self.loss_scale.used:
            return loss * self.loss_scale.factor, loss, logits
        return loss, loss, logits

    def construct(self, images, labels, own_share=None):
        (_, loss, logits), gradients = self.differentiate(images, labels, own_share)
        return gradients, ops.stack((loss, correct_within(logits, labels, 1).sum()))


class Accumulate(nn.Cell):
    """Add the gradients of one part of the batch to sums that the update takes up."""

    def __init__(self, forward_backward: ForwardBackward, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.forward_backward = forward_backward
        self.sums = ParameterTuple([_zeros(p.shape, f"accumulated.{p.name}") for p in parameters])
        self.tally = _zeros((2,), "accumulated_tally")

    def construct(self, images, labels, own_share=None):
        gradients, tally = self.forward_backward(images, labels, own_share)
        for i in range(len(self.sums)):
            ops.assign_add(self.sums[i], gradients[i])
        return ops.assign_add(self.tally, tally)


class TrainStep(nn.Cell):
    """``step(images, labels, stop)``: one update; returns :func:`read_result`'s float32 vector.

    Args:
        network: uint8 images to logits.
        optimizer: as made by :func:`train.step.network.make_optimizer`.
        global_batch: images of all ranks.
        world_size: number of ranks; 1 leaves the communication out of the graph.
        rank: this process's number.
        options: training extras.
        watched: names of trainable parameters whose moves are measured at every update.
        skips: leave out an update that is not finite. False: apply it nevertheless and say so in the result, for a
            caller who then ends the run; without the branch, the device need not wait for the host within an update.

    ``stop`` is a float32 tensor (1,), 1 where this rank was asked to end the run; its sum travels with the gradients,
    so that all ranks stop after the same update without a message of its own.

    A gradient that is not finite on any rank skips the update on all ranks: the norm of the reduced gradient tells
    every rank at once, so no further message is needed. The forward pass has by then written BatchNorm's moving
    statistics, so these are put back from a copy; the update still uses up its t.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Momentum,
        *,
        global_batch: int,
        world_size: int,
        rank: int = 0,
        options: StepOptions | None = None,
        watched: Sequence[str] = (),
        skips: bool = True,
    ):
        super().__init__(auto_prefix=False)
        options = options or StepOptions()
        self.optimizer = optimizer
        self.global_batch = global_batch
        self.clip_norm = options.clip_norm
        self.forward_backward = ForwardBackward(network, optimizer.parameters, global_batch, options)
        self.loss_scale = self.forward_backward.loss_scale
        self.buckets = Buckets(optimizer.parameters, world_size)
        # Otherwise the optimizer takes each gradient as it was before it was joined to the others.
        self.takes_from_buffers = world_size > 1 or self.loss_scale.used or self.clip_norm > 0
        self.own_place = Tensor(np.arange(world_size) == rank, ms.float32)
        self.statistics = ParameterTuple(moving_statistics(network))
        self.skips = skips
        if skips:
            self.kept = _copies("kept", self.statistics)
        self.watched = tuple(watched)
        pairs = {p.name: (p, v) for p, v in zip(optimizer.parameters, optimizer.moments, strict=True)}
        self.watched_weights = ParameterTuple([pairs[name][0] for name in watched])
        self.watched_velocities = ParameterTuple([pairs[name][1] for name in watched])
        self.accumulates = options.accumulate > 1
        if self.accumulates:
            self.accumulate = Accumulate(self.forward_backward, optimizer.parameters)
        self.ema_decay = options.ema
        if self.ema_decay:
            self.averaged = ParameterTuple([*optimizer.parameters, *self.statistics])
            self.ema = _copies("ema", self.averaged)

    def construct(self, images, labels, stop, own_share=None):
        gradients, sums = self.forward_backward(images, labels, own_share)
        if self.accumulates:
            gradients, sums = self.take_accumulated(gradients, sums)
        own_loss = sums[0]
        buffers = self.buckets.join(gradients)
        bad = ops.logical_not(ops.isfinite(norm(buffers) + own_loss)).astype(ms.float32)
        buffers, sums = self.buckets.sum_over_ranks(buffers, ops.concat((sums, stop, bad * self.own_place)))
        if self.loss_scale.used:
            buffers = self.times(buffers, 1.0 / self.loss_scale.factor)
        grad_norm = norm(buffers)
        lr = self.optimizer.get_lr()
        before = self.times(self.watched_weights, 1.0)
        applied = ops.isfinite(grad_norm + sums[0])
        if not self.skips:
            self.apply(gradients, buffers, grad_norm)
        elif applied:
            self.apply(gradients, buffers, grad_norm)
            self.copy(self.statistics, self.kept)
        else:
            ops.assign_add(self.optimizer.global_step, Tensor([1], ms.int32))
            self.copy(self.kept, self.statistics)
        lowered = self.loss_scale(applied)
        applied = applied.astype(ms.float32)
        figures: tuple = (sums[0], sums[1] / self.global_batch, grad_norm, lr, applied, lowered, own_loss)
        for i in range(len(before)):
            delta = before[i] - self.watched_weights[i]
            figures += (square_sum(delta), square_sum(self.watched_velocities[i]), square_sum(before[i]))
        return ops.concat((ops.stack(figures), sums[2:]))

    def apply(self, gradients, buffers, grad_norm):
        if self.clip_norm:
            buffers = self.times(buffers, ops.minimum(1.0, self.clip_norm / grad_norm))
        if self.takes_from_buffers:
            gradients = self.buckets.split(buffers)
        if self.ema_decay:
            step = self.optimizer.global_step.astype(ms.float32)
            decay = ops.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
            self.optimizer(gradients)
            self.average(decay)
        else:
            self.optimizer(gradients)

    def take_accumulated(self, gradients, sums):
        total: tuple = ()
        for i in range(len(self.accumulate.sums)):
            total += (gradients[i] + self.accumulate.sums[i],)
        sums = sums + self.accumulate.tally
        for i in range(len(self.accumulate.sums)):
            ops.assign(self.accumulate.sums[i], ops.zeros_like(gradients[i]))
        ops.assign(self.accumulate.tally, ops.zeros_like(sums))
        return total, sums

    def times(self, tensors, factor):
        scaled: tuple = ()
        for tensor in tensors:
            scaled += (tensor * factor,)
        return scaled

    def average(self, decay):
        for i in range(len(self.ema)):
            ops.assign(self.ema[i], decay * self.ema[i] + (1.0 - decay) * self.averaged[i])

    def copy(self, source, target):
        for i in range(len(source)):
            ops.assign(target[i], source[i])


def read_result(values: Tensor, watched: Sequence[str] = ()) -> StepResult:
    """Fetch a step's vector from the device.

    It holds loss, top1, gradient norm, lr, applied, loss scale lowered, own loss; the squares of three norms for each
    watched layer (see :class:`Move`); the number of ranks that were asked to stop; and for each rank a 1 if its own
    gradient was not finite.
    """
    loss, top1, grad_norm, lr, applied, lowered, own_loss, *rest = values.asnumpy().tolist()
    moves = {name: Move(*np.sqrt(rest[3 * i : 3 * i + 3]).tolist()) for i, name in enumerate(watched)}
    stop, *bad = rest[3 * len(watched) :]
    ranks = tuple(np.flatnonzero(bad).tolist())
    return StepResult(loss, top1, grad_norm, lr, bool(applied), own_loss, stop > 0, ranks, bool(lowered), moves)


def _zeros(shape: Sequence[int], name: str) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name, requires_grad=False)


def _copies(prefix: str, parameters: Sequence[Parameter]) -> ParameterTuple:
    return ParameterTuple(
        [Parameter(p.asnumpy().copy(), name=f"{prefix}.{p.name}", requires_grad=False) for p in parameters]
    )
