"""One update as one compiled graph.

Forward, backward, all-reduced mean gradient, guard, and ``nn.Momentum`` holding the whole schedule as its learning-rate
tensor, so that the kernel itself picks ``lr[t]`` by its own ``global_step``:

    v_t = momentum * v_(t-1) + g_t        W_(t+1) = W_t - lr_t * v_t

``g_t`` is the mean gradient over the global batch (plus weight decay): each rank weighs its own mean by its share of
the global batch, and the ranks' parts are summed. That is the mean of the ranks' gradients where all have the same
number of images, and still exact where the global batch does not divide evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

# Gradients travel in few large buffers: one message costs far more than one parameter's bytes.
BUCKET_BYTES = 8 << 20


class StepResult(NamedTuple):
    """What an update reports, already reduced over all ranks: the same on every rank."""

    loss: float
    """Mean cross-entropy over the global batch, in nats."""
    top1: float
    """Share of the global batch classified correctly, before the update."""
    grad_norm: float
    """L2 norm of the reduced mean gradient, without weight decay."""
    lr: float
    """The learning rate that the optimizer read from its own tensor for this update."""
    applied: bool
    """False when the gradient was not finite: the update was skipped on every rank."""


class Network(nn.Cell):
    """The model behind its input normalisation: uint8 images (N, C, H, W) in, logits (N, classes) out.

    Images travel to the device as uint8 (a quarter of float32's bytes) and are scaled here to (x/255 - mean) / std.
    """

    def __init__(self, model: nn.Cell, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.model = model
        scale = 1.0 / (255.0 * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        self.scale = Tensor(scale.reshape(1, -1, 1, 1).astype(np.float32))
        self.shift = Tensor(shift.reshape(1, -1, 1, 1).astype(np.float32))

    def construct(self, images):
        return self.model(images.astype(ms.float32) * self.scale + self.shift)


def correct_within(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return float32 (N,): 1 where the true class is among the ``k`` largest logits; NaN is never right."""
    true = ops.gather_elements(logits, 1, labels.reshape(-1, 1))
    not_below = ops.logical_not(logits <= true)
    return (not_below.astype(ms.float32).sum(axis=1) < k).astype(ms.float32)


def make_optimizer(
    model: nn.Cell,
    lr: np.ndarray,
    *,
    momentum: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
) -> nn.Momentum:
    """Return ``nn.Momentum`` over the model's trainable parameters, holding the schedule ``lr`` (float32, (T,)).

    Weight decay is left off BatchNorm's gamma and beta and off biases (all 1-D parameters) unless
    ``decay_norm_and_bias``: He et al. 2019, "Bag of Tricks for Image Classification", section 3.1.
    """
    parameters = model.trainable_params()
    free = [] if decay_norm_and_bias else [p for p in parameters if p.ndim <= 1]
    chosen = {id(p) for p in free}
    groups = [
        {"params": [p for p in parameters if id(p) not in chosen], "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return nn.Momentum([group for group in groups if group["params"]], learning_rate=Tensor(lr), momentum=momentum)


def moving_statistics(model: nn.Cell) -> list[Parameter]:
    """Return BatchNorm's moving means and variances, in the model's order."""
    return [p for p in model.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]


def make_buckets(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Split consecutive tensors of ``sizes`` bytes into ranges [start, stop) of at most ``limit`` bytes, or of one."""
    buckets, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and held + size > limit:
            buckets.append((start, index))
            start, held = index, 0
        held += size
    return [*buckets, (start, len(sizes))]


class GradientSum(nn.Cell):
    """Sum gradients over all ranks: tensors are joined into buckets, one all-reduce for each bucket."""

    def __init__(self, parameters: Sequence[Parameter], world_size: int, bucket_bytes: int = BUCKET_BYTES):
        super().__init__()
        self.alone = world_size == 1
        self.shapes = tuple(p.shape for p in parameters)
        self.sizes = tuple(int(p.size) for p in parameters)
        self.buckets = tuple(make_buckets([4 * size for size in self.sizes], bucket_bytes))
        if not self.alone:
            self.all_reduce = ops.AllReduce()

    def construct(self, gradients, extra):
        """Return the summed gradients and the summed ``extra`` (1-D), which travels in the last bucket."""
        if self.alone:
            return gradients, extra
        summed: tuple = ()
        total = extra
        for bucket in self.buckets:
            start, stop = bucket
            parts: tuple = ()
            for i in range(start, stop):
                parts += (gradients[i].reshape(-1),)
            if stop == len(self.sizes):
                parts += (extra,)
            buffer = self.all_reduce(ops.concat(parts))
            offset = 0
            for i in range(start, stop):
                summed += (buffer[offset : offset + self.sizes[i]].reshape(self.shapes[i]),)
                offset += self.sizes[i]
            if stop == len(self.sizes):
                total = buffer[offset:]
        return summed, total


class TrainStep(nn.Cell):
    """``step(images, labels)``: one update; returns :class:`StepResult`'s fields as one float32 tensor (5,).

    Args:
        network: uint8 images to logits.
        optimizer: as made by :func:`make_optimizer`.
        local_batch: images of this rank.
        global_batch: images of all ranks.
        world_size: number of ranks; 1 leaves the communication out of the graph.

    A gradient that is not finite on any rank skips the update on all ranks: the norm of the reduced gradient tells
    every rank at once, so no further message is needed. The forward pass has by then written BatchNorm's moving
    statistics, so these are put back from a copy; the update still uses up its t.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Momentum,
        *,
        local_batch: int,
        global_batch: int,
        world_size: int,
    ):
        super().__init__(auto_prefix=False)
        self.network = network.set_train()
        self.optimizer = optimizer
        self.share = local_batch / global_batch
        self.global_batch = global_batch
        self.sum_over_ranks = GradientSum(optimizer.parameters, world_size)
        self.statistics = ParameterTuple(moving_statistics(network))
        self.kept = ParameterTuple(
            [Parameter(p.asnumpy().copy(), name=f"kept.{p.name}", requires_grad=False) for p in self.statistics]
        )
        self.forward_backward = ms.value_and_grad(self.forward, None, optimizer.parameters, has_aux=True)

    def forward(self, images, labels):
        logits = self.network(images)
        return ops.cross_entropy(logits, labels) * self.share, logits

    def construct(self, images, labels):
        (loss, logits), gradients = self.forward_backward(images, labels)
        correct = correct_within(logits, labels, 1).sum()
        gradients, sums = self.sum_over_ranks(gradients, ops.stack((loss, correct)))
        norm = self.norm(gradients)
        lr = self.optimizer.get_lr()
        applied = ops.isfinite(norm)
        if applied:
            self.optimizer(gradients)
            self.copy(self.statistics, self.kept)
        else:
            ops.assign_add(self.optimizer.global_step, Tensor([1], ms.int32))
            self.copy(self.kept, self.statistics)
        return ops.stack((sums[0], sums[1] / self.global_batch, norm, lr, applied.astype(ms.float32)))

    def norm(self, gradients):
        squares: tuple = ()
        for gradient in gradients:
            squares += (ops.square(gradient.astype(ms.float32)).sum(),)
        return ops.sqrt(ops.stack(squares).sum())

    def copy(self, source, target):
        for i in range(len(source)):
            ops.assign(target[i], source[i])


def read_result(values: Tensor) -> StepResult:
    """Fetch a step's tensor from the device."""
    loss, top1, grad_norm, lr, applied = (float(value) for value in values.asnumpy())
    return StepResult(loss, top1, grad_norm, lr, bool(applied))
