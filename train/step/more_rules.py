"""More update rules: MindSpore's optimizers, and ours over its kernels and operators.

Each holds the whole schedule as its learning rate.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from train.step.reduction import each, square_sum
from train.step.update_rules import Momentum, of_each


def nesterov(params, learning_rate, momentum):
    """Momentum's own kernel takes ``use_nesterov`` on a CPU and ignores it; SGD's does not."""
    return nn.SGD(params, learning_rate, momentum, nesterov=True)


def adam(params, learning_rate, beta1=0.9, beta2=0.999, eps=1e-8):
    return nn.Adam(params, learning_rate, beta1, beta2, eps)


class AdamW(nn.Adam):
    """Adam whose weight decay is apart from the gradient: first W -= lr·decay·W, then Adam's own kernel.

    Loshchilov and Hutter 2019, arXiv:1711.05101. ``nn.AdamWeightDecay`` is none: it does not correct the bias.
    """

    def __init__(self, params, learning_rate, beta1=0.9, beta2=0.999, eps=1e-8):
        super().__init__(params, learning_rate, beta1, beta2, eps)

    def decay_weight(self, gradients):
        # Without decay MindSpore 2.10 would read the rate after it has counted its step up: that of the next.
        if any(self.decay_flags):
            rates = of_each(self.get_lr(), self.param_length)
            each(_decay, rates, self.get_weight_decay(), self.decay_flags, self._parameters)
        return gradients


def _decay(rate, decay, decays, weight):
    return ops.Assign()(weight, weight * (1.0 - rate * decay)) if decays else weight


class Lars(Momentum):
    """Momentum of gradients scaled for each layer, g' = (g + decay·W) · c·‖W‖/(‖g‖ + decay·‖W‖).

    You et al. 2017, arXiv:1708.03888; norms and biases (1-D) keep their gradient. ``nn.LARS`` has no kernel on a CPU.
    """

    def __init__(self, params, learning_rate, momentum, coefficient=0.001, eps=1e-8):
        super().__init__(params, learning_rate, momentum)
        self.coefficient = float(coefficient)
        self.eps = float(eps)

    def decay_weight(self, gradients):
        scaled = ops.partial(_scaled, self.coefficient, self.eps)
        return each(scaled, self.get_weight_decay(), self.decay_flags, self._parameters, gradients)


def _scaled(coefficient, eps, decay, decays, weight, gradient):
    decayed = gradient + decay * weight if decays else gradient
    if weight.ndim <= 1:
        return decayed
    size = ops.sqrt(square_sum(weight))
    length = ops.sqrt(square_sum(gradient)) + decay * size
    return decayed * _ratio(coefficient * size, length + eps, size * length)


def _ratio(above, below, defined):
    """Return ``above / below``, or 1 where ``defined`` is 0: of a layer that is 0, or has no gradient."""
    return ops.select(defined > 0, above / below, ops.ones_like(above))


class Lamb(nn.Optimizer):
    """Adam's direction r, with decay·W added, in steps of lr·‖W‖/‖r‖ for each layer.

    You et al. 2020, arXiv:1904.00962; norms and biases (1-D) take steps of lr. ``nn.Lamb`` has no kernel on a CPU.
    """

    def __init__(self, params, learning_rate, beta1=0.9, beta2=0.999, eps=1e-6):
        super().__init__(learning_rate, params)
        self.beta1, self.beta2, self.eps = float(beta1), float(beta2), float(eps)
        self.beta1_power = Parameter(Tensor(1.0, ms.float32), name="beta1_power")
        self.beta2_power = Parameter(Tensor(1.0, ms.float32), name="beta2_power")
        self.moment1 = self._parameters.clone(prefix="moment1", init="zeros")
        self.moment2 = self._parameters.clone(prefix="moment2", init="zeros")

    def construct(self, gradients):
        power1, power2 = self.beta1_power * self.beta1, self.beta2_power * self.beta2
        update = ops.partial(_lamb, (self.beta1, self.beta2, power1, power2, self.eps))
        rates, decays = of_each(self.get_lr(), self.param_length), self.get_weight_decay()
        each(update, rates, decays, self.decay_flags, self._parameters, self.moment1, self.moment2, gradients)
        ops.Assign()(self.beta1_power, power1)
        ops.Assign()(self.beta2_power, power2)
        return self.assignadd(self.global_step, self.global_step_increase_tensor)


def _lamb(shared, rate, decay, decays, weight, moment1, moment2, gradient):
    beta1, beta2, power1, power2, eps = shared
    mean = beta1 * moment1 + (1.0 - beta1) * gradient
    square = beta2 * moment2 + (1.0 - beta2) * ops.square(gradient)
    direction = mean / (1.0 - power1) / (ops.sqrt(square / (1.0 - power2)) + eps)
    if decays:
        direction = direction + decay * weight
    if direction.ndim > 1:
        size, length = ops.sqrt(square_sum(weight)), ops.sqrt(square_sum(direction))
        rate = rate * _ratio(size, length, size * length)
    ops.Assign()(moment1, mean)
    ops.Assign()(moment2, square)
    return ops.AssignSub()(weight, rate * direction)
