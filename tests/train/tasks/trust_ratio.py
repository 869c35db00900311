"""An optimizer whose step is a fraction of the layer's own norm, as LAMB's and LARS's are."""

from mindspore import nn, ops


class TrustRatio(nn.Optimizer):
    """W -= lr·‖W‖/‖g‖·g; with ``clip`` W -= min(lr, 0.001·‖W‖/‖g‖)·g, as LARS has with ``use_clip``."""

    def __init__(self, parameters, learning_rate, clip):
        super().__init__(learning_rate, parameters)
        self.clip = clip

    def construct(self, gradients):
        lr = self.get_lr()
        for i in range(len(self._parameters)):
            weight, gradient = self._parameters[i], gradients[i]
            ratio = ops.sqrt((weight * weight).sum()) / ops.sqrt((gradient * gradient).sum())
            if self.clip:
                ops.AssignSub()(weight, ops.minimum(lr, 0.001 * ratio) * gradient)
            else:
                ops.AssignSub()(weight, lr * ratio * gradient)
        return self.assignadd(self.global_step, self.global_step_increase_tensor)
