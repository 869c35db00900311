"""Time of a ResNet-20 training step with shortcut A as it is, A by slicing, and B, in turns.

``python -m tests.models.benchmark_shortcuts`` (a minute on two cores); prints the fastest and the median step.
"""

from __future__ import annotations

import os
import statistics
import time

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from models import create_model
from models.layers import SubsampleAndPad

BATCH = 64
ROUNDS = 30


class Slice(nn.Cell):
    """Every second pixel by a strided slice."""

    def construct(self, x):
        return x[:, :, ::2, ::2]


def training_step(form: str) -> nn.Cell:
    model = create_model("resnet20", num_classes=10, shortcut=form[0])
    if form == "A by slicing":
        for _, cell in model.cells_and_names():
            if isinstance(cell, SubsampleAndPad):
                cell.subsample = Slice()
    network = nn.WithLossCell(model, nn.CrossEntropyLoss())
    return nn.TrainOneStepCell(network, nn.SGD(model.trainable_params(), 0.1, 0.9)).set_train()


def main() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    labels = Tensor(np.arange(BATCH) % 10, ms.int32)
    for size in (16, 32):
        images = Tensor(np.random.default_rng(0).standard_normal((BATCH, 3, size, size), np.float32))
        steps = {form: training_step(form) for form in ("A", "A by slicing", "B")}
        for step in steps.values():
            step(images, labels).asnumpy()  # compiles
        seconds: dict[str, list[float]] = {form: [] for form in steps}
        for _ in range(ROUNDS):
            for form, step in steps.items():
                start = time.perf_counter()
                step(images, labels).asnumpy()
                seconds[form].append(time.perf_counter() - start)
        for form, taken in seconds.items():
            print(f"{size}×{size} {form}: {min(taken):.4f} s fastest, {statistics.median(taken):.4f} s median")


if __name__ == "__main__":
    main()
