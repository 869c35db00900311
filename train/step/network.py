"""The model behind its input normalisation, two things that are asked of any model, and its optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

OPTIMIZER = "optimizer."
"""Begins the name of every parameter that belongs to the optimizer and not to the model."""


class Network(nn.Cell):
    """uint8 images (N, C, H, W) in, float32 logits (N, classes) out.

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
        return self.model(images.astype(ms.float32) * self.scale + self.shift).astype(ms.float32)


def correct_within(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return float32 (N,): 1 where the true class is among the ``k`` largest logits, else 0.

    Of equal logits the one of the lower class counts as larger, as argmax has it; NaN is never right.
    """
    column = labels.reshape(-1, 1)
    true = ops.gather_elements(logits, 1, column)
    larger = ops.logical_not(logits <= true).astype(ms.float32)
    before = ops.logical_and(logits == true, ops.arange(logits.shape[1]) < column).astype(ms.float32)
    return ((larger + before).sum(axis=1) < k).astype(ms.float32)


def moving_statistics(model: nn.Cell) -> list[Parameter]:
    """Return BatchNorm's moving means and variances, in the model's order."""
    return [p for p in model.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]


def norms_over_one_value(model: nn.Cell, images: int, channels: int, size: int) -> list[str]:
    """Return the names of BatchNorm layers that see a single value a channel in a training pass of ``images`` images.

    Their variance is that of one number, so what they write into their moving statistics is not a number. The model is
    gone through once in evaluation mode with images (images, channels, size, size) of zeros, not compiled.
    """
    found: list[str] = []
    norms = [(name, cell) for name, cell in model.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    handles = []
    for name, cell in norms:

        def note(_cell: nn.Cell, inputs: tuple[Tensor, ...], name: str = name) -> None:
            batch, _, height, width = inputs[0].shape
            if batch * height * width == 1:
                found.append(name)

        handles.append(cell.register_forward_pre_hook(note))
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    model.set_train(False)
    try:
        model(Tensor(np.zeros((images, channels, size, size), np.float32)))
    finally:
        model.set_train(True)
        ms.set_context(mode=mode)
        for handle in handles:
            handle.remove()
    return found


def make_optimizer(
    model: nn.Cell, lr: np.ndarray, *, momentum: float, weight_decay: float, decay_norm_and_bias: bool
) -> nn.Momentum:
    """Return ``nn.Momentum`` over the model's trainable parameters, with ``lr`` (float32, (T,)) as its learning rate.

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
    # An optimizer of MindSpore takes up its parameters under their names, beside its own learning_rate, loss_scale and
    # so on: a model may use these names too, so its parameters have others while the optimizer is made.
    names = {id(p): p.name for p in parameters}
    for parameter in parameters:
        parameter.name = OPTIMIZER + parameter.name
    optimizer = nn.Momentum([group for group in groups if group["params"]], learning_rate=Tensor(lr), momentum=momentum)
    for parameter in optimizer.get_parameters():
        parameter.name = names.get(id(parameter)) or OPTIMIZER + parameter.name.replace(OPTIMIZER, "", 1)
    return optimizer


def hyper_parameters(optimizer: nn.Optimizer) -> list[Parameter]:
    """Return the optimizer's parameters that hold its configuration and no state: the whole schedule is one of them."""
    return [p for p in optimizer.get_parameters() if p.name in (f"{OPTIMIZER}learning_rate", f"{OPTIMIZER}momentum")]
