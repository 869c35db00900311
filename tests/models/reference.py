"""Small models, random weights and images that the comparisons with PyTorch share; NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("torch_logits.json")


@dataclass(frozen=True)
class Case:
    """A variant with few blocks and narrow stages, in its own words for both sides."""

    name: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    shortcut: str = "B"
    stem: str = "imagenet"
    bottleneck: bool = True
    groups: int = 1
    base_width: int = 64
    se: bool = False
    size: int = 64
    classes: int = 10

    @property
    def options(self) -> dict[str, object]:
        """Arguments of ``create_model``."""
        own = ("depths", "widths", "shortcut", "stem", "groups", "base_width", "se")
        block = "bottleneck" if self.bottleneck else "basic"
        return {"num_classes": self.classes, "block": block} | {name: getattr(self, name) for name in own}


_CIFAR = {"widths": (16, 32, 64), "stem": "cifar", "bottleneck": False, "size": 32}
_SMALL = {"depths": (1, 2, 1, 1), "widths": (16, 24, 32, 48)}

# Odd sizes make the border rows of strided convolutions and of pooling count.
CASES = (
    Case("resnet20", (3, 3, 3), **_CIFAR, shortcut="A"),
    Case("resnet20 odd", (1, 1, 1), **(_CIFAR | {"size": 29}), shortcut="A"),
    Case("resnet20 projection", (3, 3, 3), **_CIFAR),
    Case("resnet18", **_SMALL, bottleneck=False, size=65),
    Case("resnet50", **_SMALL, size=65),
    Case("resnet50d", **_SMALL, stem="deep", shortcut="D", size=77),
    Case("resnext50_32x4d", (1, 1), (32, 64), groups=32, base_width=4),
    Case("wide_resnet50_2", **_SMALL, base_width=128),
    Case("seresnet50", (1, 1), (16, 64), se=True),
    Case("seresnet18", (1, 1), (16, 64), bottleneck=False, se=True),
)


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 values for PyTorch's names: filters of unit gain, and batch norms that have seen some data."""
    rng = np.random.default_rng(2015)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if len(shape) > 1:
            value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith((".weight", ".running_var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.1 * rng.standard_normal(shape)
        weights[name] = value.astype(np.float32)
    return weights


def images(case: Case, count: int = 2) -> np.ndarray:
    """(count, 3, size, size) float32, standard normal."""
    return np.random.default_rng(1).standard_normal((count, 3, case.size, case.size)).astype(np.float32)
