"""What is measured or kept of single layers in an update, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import mindspore as ms
from mindspore import Parameter, ParameterTuple, nn, ops

from train.step.optimizer import velocities
from train.step.own import copies, zeros
from train.step.reduction import square_sum, times


class Watch(NamedTuple):
    """What an update measures besides its loss; layers are names of trainable parameters."""

    recorded: Sequence[str] = ()
    """Layers whose update's norms are measured."""
    logged: Sequence[str] = ()
    """Layers whose gradient's norm is measured."""
    keeps_gradients: bool = False
    """Keep what the optimizer is handed for each recorded layer."""
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
        self.gradients = zeros("gradient", [optimizer.parameters[i] for i in self.kept_places])
        self.weights = ParameterTuple([weights[name] for name in watch.recorded])
        self.velocities = ParameterTuple([moments[name] for name in watch.recorded if moments])
        self.map = ops.Map()

    def squares_of(self, gradients):
        """Return the square of the norm of each logged layer's gradient, each (1,)."""
        return self.map(ops.partial(_square_of, gradients), self.logged_places)

    def before(self):
        """Return the recorded weights as they are before the update."""
        return self.map(ops.partial(times, 1.0), self.weights)

    def keep(self, gradients):
        """Keep the recorded layers' part of what the optimizer is handed."""
        self.map(ops.assign, self.gradients, self.map(ops.partial(_pick, gradients), self.kept_places))

    def squares_after(self, before):
        """Return the squares of :class:`train.step.report.UpdateNorms` of each recorded layer, each (2,) or (3,)."""
        squares = self.map(_squares_of_update, before, self.weights)
        return self.map(_behind_square, squares, self.velocities) if self.velocities else squares


class Average(nn.Cell):
    """The moving average of ``parameters``, at first with a decay of (1 + t) / (10 + t)."""

    def __init__(self, decay: float, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.parameters = ParameterTuple(parameters)
        self.averages = copies("ema", parameters)
        self.map = ops.Map()

    def decay_at(self, kernel_step):
        """Return the decay of the update that ``kernel_step`` counts."""
        step = kernel_step.astype(ms.float32)
        return ops.minimum(self.decay, (1.0 + step) / (10.0 + step))

    def construct(self, decay):
        """Take the parameters' present values into the average."""
        return self.map(ops.partial(_average, decay), self.averages, self.parameters)


def _pick(tensors, place):
    return tensors[place]


def _square_of(tensors, place):
    return square_sum(tensors[place]).reshape(1)


def _squares_of_update(before, after):
    return ops.stack((square_sum(before - after), square_sum(before)))


def _behind_square(squares, velocity):
    return ops.concat((squares, square_sum(velocity).reshape(1)))


def _average(decay, average, tensor):
    return ops.assign(average, decay * average + (1.0 - decay) * tensor)
