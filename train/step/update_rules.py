"""Momentum and plain gradient descent, over MindSpore's kernel; the whole schedule is their learning rate."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from train.step.reduction import each


class Momentum(nn.Optimizer):
    """MindSpore's Momentum kernel, v = momentum·v + g and W -= lr·v: bit for bit what its own class makes of it, which
    is to go after 2.9. ``optimizer(gradients, True)`` takes gradients to which the weight decay was added before."""

    def __init__(self, params, learning_rate, momentum):
        super().__init__(learning_rate, params)
        self.momentum = Parameter(Tensor(momentum, ms.float32), name="momentum")
        self.moments = self._parameters.clone(prefix="moments", init="zeros")

    def construct(self, gradients, decayed=False):
        if not decayed:
            gradients = self.decay_weight(gradients)
        rates = of_each(self.get_lr(), self.param_length)
        each(ops.partial(_momentum, self.momentum), rates, self._parameters, self.moments, gradients)
        return self.assignadd(self.global_step, self.global_step_increase_tensor)


def _momentum(momentum, rate, weight, velocity, gradient):
    return ops.ApplyMomentum()(weight, velocity, rate, gradient, momentum)


def of_each(rates, parameters):
    """Return the rate of each of so many parameters, which all have one, or each its own."""
    return rates if isinstance(rates, tuple) else (rates,) * parameters


def sgd(params, learning_rate):
    """Momentum without momentum is plain gradient descent."""
    return Momentum(params, learning_rate, momentum=0.0)
