"""Short trainings that are made with PyTorch and with ours: what both are given; NumPy only.

Images are noise: on images with flat parts max pooling has several largest values, of which each library takes another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.models.reference import Case

RECORDED = Path(__file__).with_name("torch_training.json")
UPDATES, BATCH, SMOOTHING, MOMENTUM = 10, 16, 0.1, 0.9
MODELS = {
    "resnet20": Case("resnet20", (3, 3, 3), (16, 32, 64), "A", "cifar", bottleneck=False, size=32),
    "resnet18": Case("resnet18", (2, 2, 2, 2), (64, 128, 256, 512), bottleneck=False, size=33),
}


@dataclass(frozen=True)
class Training:
    """A model, an optimizer and the number of ranks, each of which normalises its own part of the batch."""

    model: str
    optimizer: str
    ranks: int = 1

    @property
    def name(self) -> str:
        return f"{self.model}, {self.optimizer}, {self.ranks} rank{'s' * (self.ranks > 1)}"

    @property
    def lr(self) -> np.ndarray:
        """float32 (UPDATES,), a warm-up of four updates and a descent."""
        peak = (1e-4 if self.optimizer == "adamw" else 2e-3) / (1 if self.model == "resnet20" else 10)
        factors = [*np.linspace(0.25, 1, 4), *np.linspace(0.9, 0.1, UPDATES - 4)]
        return (peak * np.asarray(factors)).astype(np.float32)

    @property
    def weight_decay(self) -> float:
        return 0.5 if self.optimizer == "adamw" else 0.05


TRAININGS = [
    *(Training(model, optimizer) for model in MODELS for optimizer in ("momentum", "nesterov", "adamw")),
    Training("resnet20", "momentum", ranks=2),
]


def batches(case: Case) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield float32 images (BATCH, 3, size, size) and int32 labels (BATCH,) of each update."""
    rng = np.random.default_rng(5)
    for _ in range(UPDATES):
        images = rng.standard_normal((BATCH, 3, case.size, case.size)).astype(np.float32)
        yield images, rng.integers(0, case.classes, BATCH).astype(np.int32)
