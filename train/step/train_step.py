"""One update as one compiled graph.

Forward, backward, all-reduced mean gradient, guard, and an optimizer that holds the whole schedule as its learning-rate
tensor, so that the kernel itself picks ``lr[t]`` by its own ``global_step``. With ``nn.Momentum``, the default:

    v_t = momentum * v_(t-1) + g_t        W_(t+1) = W_t - lr_t * v_t

``g_t`` is the mean gradient over the global batch (plus weight decay): each rank weighs its own mean by its fraction of
the global batch, and the ranks' parts are summed. That is the mean of the ranks' gradients where all have the same
number of images, and still exact where the global batch does not divide evenly. The extras of :class:`StepOptions` that
are off leave nothing in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from train.step.loss import make_loss
from train.step.network import correct_within, moving_statistics
from train.step.optimizer import hyper_parameters, velocities
from train.step.options import StepOptions
from train.step.reduction import Buckets, LossScale, norm, square_sum
from train.step.result import Layout

OWN = "train_step."
"""Begins the name of every parameter that belongs to the step and not to the model, whose names are its author's."""
AVERAGE = f"{OWN}ema."


class ForwardBackward(nn.Cell):
    """Loss, correct answers and gradients of one part of the batch, weighed by its fraction of the global batch."""

    def __init__(
        self,
        network: nn.Cell,
        parameters: ParameterTuple,
        global_batch: int,
        options: StepOptions,
        measures_top1: bool = True,
    ):
        super().__init__(auto_prefix=False)
        self.network = network.set_train()
        self.global_batch = global_batch
        self.loss = make_loss(options.loss, options.loss_options, options.label_smoothing)
        self.measures_top1 = measures_top1
        self.loss_scale = LossScale(options.loss_scale, options.loss_scale_window)
        self.differentiate = ms.value_and_grad(self.forward, None, parameters, has_aux=True)

    def forward(self, images, targets, lam):
        if lam is None:
            outputs = self.network(images)
            loss = self.loss.mean(outputs, targets)
        else:  # mixup and cutmix: image i with image n-1-i, and the loss of both targets
            pixels = images.astype(ms.float32)
            outputs = self.network(lam * pixels + (1.0 - lam) * ops.flip(pixels, (0,)))
            weight = lam.mean()
            own = self.loss.mean(outputs, targets)
            loss = weight * own + (1.0 - weight) * self.loss.mean(outputs, self.flipped(targets))
        loss = loss * (images.shape[0] / self.global_batch)
        if self.loss_scale.used:
            return loss * self.loss_scale.factor, loss, outputs
        return loss, loss, outputs

    def flipped(self, targets):
        """Return the targets in the opposite order."""
        if not isinstance(targets, tuple):
            return ops.flip(targets, (0,))
        several: tuple = ()
        for target in targets:
            several += (ops.flip(target, (0,)),)
        return several

    def construct(self, images, targets, lam=None):
        (_, loss, outputs), gradients = self.differentiate(images, targets, lam)
        if not self.measures_top1:
            return gradients, ops.stack((loss, ops.zeros_like(loss)))
        return gradients, ops.stack((loss, correct_within(outputs, targets, 1).sum()))


class Accumulate(nn.Cell):
    """Add the gradients of one part of the batch to buffers that the next update consumes."""

    def __init__(self, forward_backward: ForwardBackward, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.forward_backward = forward_backward
        self.sums = ParameterTuple([_zeros(p.shape, f"{OWN}accumulated.{p.name}") for p in parameters])
        self.tally = _zeros((2,), f"{OWN}accumulated_tally")
        self.map = ops.Map()

    def construct(self, images, labels, lam=None):
        gradients, tally = self.forward_backward(images, labels, lam)
        self.map(ops.assign_add, self.sums, gradients)
        return ops.assign_add(self.tally, tally)


class TrainStep(nn.Cell):
    """``step(images, labels, stop)``: one update; returns the float32 vector of :func:`train.step.result.read_result`.

    Args:
        network: uint8 images to logits, or whatever the loss takes.
        optimizer: as made by :func:`train.step.optimizer.make_optimizer`.
        global_batch: images of all ranks.
        world_size: number of ranks; 1 leaves the communication out of the graph.
        rank: this process's number.
        options: training extras.
        recorded: names of trainable parameters whose update's norms are measured at every update.
        logged: the same for the norm of the gradient.
        rates: places in ``optimizer.get_lr()``, as :func:`train.step.optimizer.group_rates` returns them.
        measures_top1: count correct answers too; targets are classes then. Else ``top1`` is 0.
        keeps_gradients: keep what the optimizer is handed for each of them, in ``recorded_gradients``.
        skips: leave out an update that is not finite. False: apply it nevertheless and say so in the result, for a
            caller who then ends the run; without the branch, the device need not wait for the host within an update.

    ``stop`` is a float32 tensor (1,), 1 where this rank was asked to end the run; its sum travels with the gradients,
    so that all ranks stop after the same update without an extra collective.

    A gradient that is not finite on any rank skips the update on all ranks: the norm of the reduced gradient tells
    every rank at once, so no further exchange is needed. The forward pass has by then written BatchNorm's moving
    statistics, so these are put back from a copy; the update still uses up its t.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Optimizer,
        *,
        global_batch: int,
        world_size: int,
        rank: int = 0,
        options: StepOptions | None = None,
        recorded: Sequence[str] = (),
        logged: Sequence[str] = (),
        rates: Mapping[str, int] | None = None,
        measures_top1: bool = True,
        keeps_gradients: bool = False,
        skips: bool = True,
    ):
        super().__init__(auto_prefix=False)
        options = options or StepOptions()
        self.optimizer = optimizer
        self.global_batch = global_batch
        self.clip_norm = options.clip_norm
        self.forward_backward = ForwardBackward(network, optimizer.parameters, global_batch, options, measures_top1)
        self.scaling = self.forward_backward.loss_scale
        self.buckets = Buckets(optimizer.parameters, world_size)
        self.map = ops.Map()
        # Otherwise the optimizer takes each gradient as it was before it was joined to the others.
        self.takes_from_buffers = world_size > 1 or self.scaling.used or self.clip_norm > 0
        self.own_place = Tensor(np.arange(world_size) == rank, ms.float32)
        self.statistics = ParameterTuple(moving_statistics(network))
        self.skips = skips
        if skips:
            self.kept = _copies("kept", self.statistics)
        weights, moments = {p.name: p for p in optimizer.parameters}, velocities(optimizer)
        places = {name: place for place, name in enumerate(weights)}
        self.recorded_weights = ParameterTuple([weights[name] for name in recorded])
        self.recorded_velocities = ParameterTuple([moments[name] for name in recorded if moments])
        self.recorded_places = tuple(places[name] for name in recorded) if keeps_gradients else ()
        handed = [optimizer.parameters[i] for i in self.recorded_places]
        self.recorded_gradients = ParameterTuple([_zeros(p.shape, f"{OWN}gradient.{p.name}") for p in handed])
        self.logged_places = tuple(places[name] for name in logged)
        (_, self.rate_place), *others = (rates or {"": 0}).items()
        self.rate_places = tuple(place for _, place in others)
        self.has_rates = optimizer.is_group_lr
        self.layout = Layout(tuple(name for name, _ in others), tuple(logged), tuple(recorded), bool(moments))
        self.accumulates = options.accumulate > 1
        if self.accumulates:
            self.accumulate = Accumulate(self.forward_backward, optimizer.parameters)
        self.ema_decay = options.ema
        if self.ema_decay:
            self.averaged = ParameterTuple([*optimizer.parameters, *self.statistics])
            self.ema = _copies("ema", self.averaged)

    def scratch(self) -> list[Parameter]:
        """Return the parameters that hold nothing between updates, or what the configuration says: never saved."""
        sums = [*self.accumulate.sums, self.accumulate.tally] if self.accumulates else []
        kept = self.kept if self.skips else ()
        return [*kept, *sums, *self.recorded_gradients, *hyper_parameters(self.optimizer)]

    def refresh_copies(self) -> None:
        """Bring the copies of the moving statistics to what these are now, after a state was restored."""
        for copy, statistic in zip(self.kept if self.skips else (), self.statistics, strict=False):
            copy.set_data(Tensor(statistic.asnumpy()))

    def construct(self, images, labels, stop, lam=None):
        gradients, sums = self.forward_backward(images, labels, lam)
        if self.accumulates:
            gradients, sums = self.take_accumulated(gradients, sums)
        own_loss = sums[0]

        # Whether this rank's own gradient is finite must be seen before the sum, which is finite on no rank then.
        buffers = self.buckets.join(gradients)
        bad = ops.logical_not(ops.isfinite(norm(buffers) + own_loss)).astype(ms.float32)
        # Loss, accuracy, the request to stop and the bad ranks travel behind the gradients: one exchange for all.
        buffers, sums = self.buckets.sum_over_ranks(buffers, ops.concat((sums, stop, bad * self.own_place)))
        if self.scaling.used:
            buffers = self.map(ops.partial(_times, 1.0 / self.scaling.factor), buffers)
        grad_norm = norm(buffers)

        # Read before the optimizer runs, which counts its step up and writes into the weights. A parameter is read
        # where it is used, so its old value needs a tensor of its own; the product makes one.
        lr = self.optimizer.get_lr()
        rates: tuple = ()
        if self.has_rates:
            for place in self.rate_places:
                rates += (lr[place],)
            lr = lr[self.rate_place]
        squares = self.layer_squares(gradients, buffers)
        before = self.map(ops.partial(_times, 1.0), self.recorded_weights)

        # After the reduction every rank holds the same norm, so all ranks take the same branch.
        applied = ops.isfinite(grad_norm + sums[0])
        if not self.skips:
            self.optimize(gradients, buffers, grad_norm)
        elif applied:
            self.optimize(gradients, buffers, grad_norm)
            self.map(ops.assign, self.kept, self.statistics)
        else:
            # The schedule goes on: a skipped update has used up its t. The statistics have seen the bad batch.
            ops.assign_add(self.optimizer.global_step, Tensor([1], ms.int32))
            self.map(ops.assign, self.statistics, self.kept)
        lowered = self.scaling(applied)
        applied = applied.astype(ms.float32)
        figures: tuple = (
            sums[0],
            sums[1] / self.global_batch,
            grad_norm,
            lr,
            applied,
            lowered,
            own_loss,
        )  # result.FIGURES
        layers = self.map(_squares_of_update, before, self.recorded_weights)
        if self.recorded_velocities:
            layers = self.map(_behind_square, layers, self.recorded_velocities)
        return ops.concat((ops.stack(figures + rates),) + squares + layers + (sums[2:],))  # noqa: RUF005, of a graph

    def layer_squares(self, gradients, buffers):
        """Return the square of the norm of each logged layer's gradient."""
        if not self.logged_places:
            return ()
        if self.takes_from_buffers:
            gradients = self.buckets.split(buffers)
        return self.map(ops.partial(_square_of, gradients), self.logged_places)

    def optimize(self, gradients, buffers, grad_norm):
        if self.clip_norm:
            buffers = self.map(ops.partial(_times, ops.minimum(1.0, self.clip_norm / grad_norm)), buffers)
        if self.takes_from_buffers:
            gradients = self.buckets.split(buffers)
        if self.recorded_places:
            recorded = self.map(ops.partial(_pick, gradients), self.recorded_places)
            self.map(ops.assign, self.recorded_gradients, recorded)
        if self.ema_decay:
            step = self.optimizer.global_step.astype(ms.float32)
            decay = ops.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
            self.optimizer(gradients)
            self.map(ops.partial(_average, decay), self.ema, self.averaged)
        else:
            self.optimizer(gradients)

    def take_accumulated(self, gradients, sums):
        """Add what :class:`Accumulate` has collected, and empty its buffers."""
        total = self.map(ops.add, gradients, self.accumulate.sums)
        sums = sums + self.accumulate.tally
        self.map(_clear, self.accumulate.sums)
        _clear(self.accumulate.tally)
        return total, sums


def _times(factor, tensor):
    return tensor * factor


def _pick(tensors, place):
    return tensors[place]


def _square_of(tensors, place):
    return square_sum(tensors[place]).reshape(1)


def _clear(total):
    return ops.assign(total, ops.zeros_like(total))


def _average(decay, average, tensor):
    return ops.assign(average, decay * average + (1.0 - decay) * tensor)


def _squares_of_update(before, after):
    return ops.stack((square_sum(before - after), square_sum(before)))


def _behind_square(figures, velocity):
    return ops.concat((figures, square_sum(velocity).reshape(1)))


def _zeros(shape: Sequence[int], name: str) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name, requires_grad=False)


def _copies(kind: str, parameters: Sequence[Parameter]) -> ParameterTuple:
    return ParameterTuple(
        [Parameter(p.asnumpy().copy(), name=f"{OWN}{kind}.{p.name}", requires_grad=False) for p in parameters]
    )
