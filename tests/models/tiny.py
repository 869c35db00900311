"""A ResNet of two blocks with all kinds of parameters, and its values."""

import mindspore as ms
import numpy as np
from mindspore import nn

from models import create_model

TINY = {"depths": [1, 1], "widths": [8, 16], "shortcut": "B", "se": True}


def tiny(seed: int, **options) -> nn.Cell:
    ms.set_seed(seed)
    model = create_model("resnet20", **({"num_classes": 5} | TINY | options))
    for number, (_, parameter) in enumerate(model.parameters_and_names()):  # moving statistics differ as well
        parameter.set_data(parameter + 0.01 * seed * number)
    return model


def values(model: nn.Cell) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in model.parameters_and_names()}


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        np.testing.assert_array_equal(value, right[name], err_msg=name)
