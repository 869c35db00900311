"""What is measured or kept of single layers in an update, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import mindspore as ms
from mindspore import Parameter, ParameterTuple, nn, ops

from train.step.optimizer import velocities
from train.step.parameters import step_parameter, zeros
from train.step.reduction import each, flat, picked, squares, times


class Watch(NamedTuple):
    """What an update measures besides its loss; layers are names of trainable parameters."""

    recorded: Sequence[str] = ()
    """Layers whose update's norms are measured."""
    logged: Sequence[str] = ()
    """Layers whose gradient's norm is measured."""
    keeps_gradients: bool = False
    """Keep the reduced and clipped gradient of each recorded layer, without weight decay."""
    counts_correct: bool = True
    """Count correct answers; targets are classes then."""
    rates: Mapping[str, int] = MappingProxyType({"": 0})
    """Places in ``optimizer.get_lr()``, as :func:`train.step.optimizer.group_rates` returns them."""


class Recorder(nn.Cell):
    """Measures recorded and logged layers and keeps gradients; without layers it leaves nothing in the graph."""

    def __init__(self, optimizer: nn.Optimizer, watch: Watch):
        super().__init__(auto_prefix=False)
        weights, moments = {p.name: p for p in optimizer.parameters}, velocities(optimizer)
        places = {name: place for place, name in enumerate(weights)}
        self.logged_places = tuple(places[name] for name in watch.logged)
        self.kept_places = tuple(places[name] for name in watch.recorded) if watch.keeps_gradients else ()
        self.rate_places = tuple(watch.rates.values())
        self.gradients = zeros("gradient", [optimizer.parameters[i] for i in self.kept_places])
        self.weights = ParameterTuple([weights[name] for name in watch.recorded])
        self.velocities = ParameterTuple([moments[name] for name in watch.recorded if moments])

    def rates(self, rates):
        """Return those of ``optimizer.get_lr()`` that are reported, each (1,)."""
        found = each(ops.partial(picked, rates), self.rate_places) if isinstance(rates, tuple) else (rates,)
        return each(flat, found)

    def squares_of(self, gradients):
        """Return the square of the norm of each logged layer's gradient, each (1,)."""
        return squares(each(ops.partial(picked, gradients), self.logged_places))

    def before(self):
        """Return the recorded weights as they are before the update."""
        return each(ops.partial(times, 1.0), self.weights)

    def keep(self, gradients):
        """Keep the recorded layers' part of ``gradients``."""
        each(ops.Assign(), self.gradients, each(ops.partial(picked, gradients), self.kept_places))

    def squares_after(self, before):
        """Return the squares of :class:`train.step.report.UpdateNorms`, each (1,): of all recorded layers the first,
        then of all the next."""
        return squares(each(ops.sub, before, self.weights)) + squares(before) + squares(self.velocities)


class Average(nn.Cell):
    """The moving average of ``parameters``, at first with a decay of (1 + t) / (10 + t) in update t."""

    def __init__(self, decay: float, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.parameters = ParameterTuple(parameters)
        self.averages = ParameterTuple([step_parameter(p.asnumpy().copy(), f"ema.{p.name}") for p in parameters])

    def construct(self, kernel_step):
        """Take the parameters' present values into the average, after ``kernel_step`` updates."""
        step = kernel_step.astype(ms.float32).reshape(())  # of (1,), a scalar's average would be one of (1,) too
        decay = ops.minimum(self.decay, step / (9.0 + step))
        return each(ops.partial(_average, decay), self.averages, self.parameters)


def _average(decay, average, tensor):
    return ops.Assign()(average, decay * average + (1.0 - decay) * tensor)
