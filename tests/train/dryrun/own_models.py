"""A model, a loss and an optimizer of a reader's own, for the dry run to judge."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from train.data.example import Example, Field
from train.data.source import Sources


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


class Double(Head):
    def own(self, x):  # type: ignore[no-untyped-def]
        return ops.matmul(x.astype(ms.float64), ops.ones((8, 8), ms.float64)).astype(x.dtype)


class Inverse(Head):
    def own(self, x):  # type: ignore[no-untyped-def]
        return x + ops.inverse(ops.matmul(x.T, x)).sum()


class OnTheHost(Head):
    def own(self, x):  # type: ignore[no-untyped-def]
        return x * np.sqrt(x)


class Sentences(nn.Cell):
    """Two inputs by name, two outputs: a number for each sentence, and one for each word."""

    def __init__(self, num_classes: int, in_channels: int):
        super().__init__()
        self.words, self.of_each = nn.Embedding(50, 8), nn.Dense(8, 1)

    def construct(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        each = self.of_each(self.words(ids)).squeeze(2) * mask
        return each.sum(axis=1), each


def squares(outputs, targets):  # type: ignore[no-untyped-def]
    return (outputs[0] - targets["sum"]) ** 2 + ((outputs[1] - targets["each"]) ** 2).mean(axis=1)


class Lines:
    """Sentences of 3 to 30 words, the longest at the end."""

    num_classes, channels, mean, std, class_names = 1, 1, (), (), ()
    example = Example(
        {"ids": Field((None,), np.int32), "mask": Field((None,), np.float32)},
        {"sum": Field((), np.float32), "each": Field((None,), np.float32)},
    )

    def __len__(self) -> int:
        return 280

    def read(self, index: int) -> Example:
        long = 3 + index // 10
        inputs = {"ids": np.full(long, 7, np.int32), "mask": np.ones(long, np.float32)}
        return Example(inputs, {"sum": np.float32(1), "each": np.zeros(long, np.float32)})

    def name(self, index: int) -> str:
        return f"line {index}"

    def fingerprint(self) -> str:
        return "lines"


def lines(options) -> Sources:  # type: ignore[no-untyped-def]
    return Sources(Lines(), Lines())


def padded(examples: list[Example]) -> Example:
    """To the next multiple of 8."""
    long = -(-max(len(one.inputs["ids"]) for one in examples) // 8) * 8
    pad = lambda arrays: np.stack([np.pad(one, (0, long - len(one))) for one in arrays])  # noqa: E731
    inputs = {name: pad([one.inputs[name] for one in examples]) for name in ("ids", "mask")}
    sums = np.stack([one.targets["sum"] for one in examples])
    return Example(inputs, {"sum": sums, "each": pad([one.targets["each"] for one in examples])})
