"""MindSpore's momentum optimizer, holding the whole learning-rate schedule."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn


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
    return nn.Momentum([group for group in groups if group["params"]], learning_rate=Tensor(lr), momentum=momentum)
