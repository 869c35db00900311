"""Parameters of the step's own, which are neither the model's nor the optimizer's: how they are named and made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor

PREFIX = "train_step."
"""Begins the name of each of them; the names of the model's parameters are its author's."""
AVERAGE = f"{PREFIX}ema."
"""Begins the name of a parameter's moving average; the parameter's own name follows."""
LOSS_SCALE, SINCE_SCALING = "loss_scale", "updates_since_scaling"
LOSS_SCALE_PARAMETERS = (PREFIX + LOSS_SCALE, PREFIX + SINCE_SCALING)


def step_parameter(value: np.ndarray, name: str) -> Parameter:
    """Return a parameter of the step's own that holds ``value``."""
    return Parameter(Tensor(value), name=PREFIX + name, requires_grad=False)


def zeros(kind: str, parameters: Sequence[Parameter]) -> ParameterTuple:
    """Return float32 zeros in the shape of each parameter."""
    return ParameterTuple([step_parameter(np.zeros(p.shape, np.float32), f"{kind}.{p.name}") for p in parameters])
