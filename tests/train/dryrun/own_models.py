"""A model, a loss and an optimizer of a reader's own, for the dry run to judge."""

from __future__ import annotations

from mindspore import Tensor, nn, ops


class Stem(nn.Cell):
    """One convolution, a pooling, and the classes."""

    def __init__(self, pool: nn.Cell, num_classes: int, in_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3)
        self.relu, self.pool = nn.ReLU(), pool
        self.fc = nn.Dense(8, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc(ops.mean(self.pool(self.relu(self.conv(x))), (2, 3)))


def padded_pooling(*, num_classes: int, in_channels: int) -> nn.Cell:
    """What the ImageNet stems had once: on Ascend it runs on the AI CPU, and takes no bfloat16."""
    return Stem(nn.MaxPool2d(3, 2, pad_mode="pad", padding=1), num_classes, in_channels)


def without_a_class(*, num_classes: int, in_channels: int) -> nn.Cell:
    raise RuntimeError("a fault in a model of one's own")


class Focal(nn.Cell):
    """Lin et al. 2017, arXiv:1708.02002."""

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        log = ops.gather_elements(ops.log_softmax(logits, 1), 1, labels.reshape(-1, 1)).reshape(-1)
        return -((1.0 - ops.exp(log)) ** self.gamma) * log


class SignDescent(nn.Optimizer):
    """W -= lr·sign(g)."""

    def __init__(self, params, learning_rate):  # type: ignore[no-untyped-def]
        super().__init__(learning_rate, params)

    def construct(self, gradients):  # type: ignore[no-untyped-def]
        rate = self.get_lr()
        for i in range(len(gradients)):
            ops.AssignSub()(self._parameters[i], rate * ops.sign(gradients[i]))
        return self.assignadd(self.global_step, self.global_step_increase_tensor)


class Head(nn.Cell):
    """A convolution, something of one's own behind it, and the classes."""

    def __init__(self, num_classes: int, in_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3)
        self.fc = nn.Dense(8, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc(self.own(ops.mean(self.conv(x), (2, 3))))


class Endless(Head):
    def own(self, x):  # type: ignore[no-untyped-def]
        while ops.reduce_sum(x) < 3:
            x = x + 1
        return x


class Selecting(Head):
    def own(self, x):  # type: ignore[no-untyped-def]
        return x + ops.masked_select(x, x > 0).sum()
