"""Initial weights: a function of MindSpore's global seed and the parameter's name, and of nothing else."""

from __future__ import annotations

import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn


def init_weights(model: nn.Cell) -> None:
    """Draw the weights of every convolution and linear layer; gammas stay 1, betas 0.

    Convolutions: He initialisation, normal, fan-out (He et al. 2015, "Delving deep into rectifiers", eq. 14):
    standard deviation √(2 / (out_channels · k²)). Linear layers: uniform in ±1/√in_features, weight and bias,
    as in torchvision. Biases of convolutions stay 0.

    Each parameter has its own stream, seeded by ``ms.set_seed``'s number and the parameter's name: building a
    model twice, or another one before it, gives the same weights. Without a seed they differ at every call.
    """
    for prefix, cell in model.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            fan_out = cell.weight.shape[0] * cell.weight.shape[2] * cell.weight.shape[3]
            values = _generator(f"{prefix}.weight").standard_normal(cell.weight.shape, np.float32)
            _assign(cell.weight, values * np.float32(np.sqrt(2 / fan_out)))
        elif isinstance(cell, nn.Dense):
            bound = 1 / np.sqrt(cell.weight.shape[1])
            for name, parameter in (("weight", cell.weight), ("bias", cell.bias)):
                _assign(parameter, _generator(f"{prefix}.{name}").uniform(-bound, bound, parameter.shape))


def _generator(name: str) -> np.random.Generator:
    seed = ms.get_seed()
    return np.random.default_rng(None if seed is None else [seed, zlib.crc32(name.encode())])


def _assign(parameter: Parameter, values: np.ndarray) -> None:
    parameter.set_data(Tensor(values.astype(np.float32)))
