"""The stem's pooling against MindSpore's own layer: on a CPU equal to the bit, values and gradients."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from models.layers import MaxPoolBehindReLU


class Weighted(nn.Cell):
    """ReLU, pooling, and a weighted sum whose gradient with regard to the image is looked at."""

    def __init__(self, pool: nn.Cell):
        super().__init__()
        self.relu, self.pool = nn.ReLU(), pool

    def construct(self, image, weight):
        pooled = self.pool(self.relu(image))
        return (pooled * weight).sum(), pooled


def images(kind: str, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    pixels = rng.normal(size=(2, 3, height, width)).astype(np.float32)
    if kind == "ties":  # and many zeros behind the ReLU, some of them negative ones
        return np.round(pixels)
    if kind == "not finite":
        pixels.ravel()[rng.choice(pixels.size, pixels.size // 8, replace=False)] = np.inf
        pixels.ravel()[rng.choice(pixels.size, pixels.size // 8, replace=False)] = -np.inf
        pixels.ravel()[rng.choice(pixels.size, pixels.size // 8, replace=False)] = np.nan
    return pixels


@pytest.mark.parametrize("kind", ["normal", "ties", "not finite"])
@pytest.mark.parametrize("height, width", [(4, 4), (7, 8), (8, 7), (13, 13), (56, 57)])
def test_the_pooling_behind_a_relu_is_mindspores_own_to_the_bit(kind, height, width):
    image = images(kind, height, width)
    weight = np.random.default_rng(1).normal(size=(2, 3, -(-height // 2), -(-width // 2))).astype(np.float32)
    results = []
    for pool in (nn.MaxPool2d(3, 2, pad_mode="pad", padding=1), MaxPoolBehindReLU()):
        differentiate = ms.value_and_grad(Weighted(pool), 0, has_aux=True)
        # Three calls: a gradient that is right once may be wrong the second time.
        calls = [differentiate(Tensor(image), Tensor(weight)) for _ in range(3)]
        results.append([(pooled.asnumpy(), gradient.asnumpy()) for (_, pooled), gradient in calls])
    for (expected, expected_gradient), (pooled, gradient) in zip(*results, strict=True):
        np.testing.assert_array_equal(pooled.view(np.int32), expected.view(np.int32))
        np.testing.assert_array_equal(gradient.view(np.int32), expected_gradient.view(np.int32))
