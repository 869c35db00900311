"""What ours is measured against: ``nn.TrainOneStepCell`` over the same model, loss, optimizer and batch."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

import models
from train.data.loader import Batch
from train.runtime import distributed
from train.step.network import Network
from train.step.optimizer import make_optimizer

MODEL = "resnet20"
CLASSES = 10


def make_network(total: int, model_name: str = MODEL) -> tuple[Network, nn.Optimizer]:
    """Return the network and an optimizer whose schedule lasts ``total`` updates."""
    ms.set_seed(1)
    model = models.create_model(model_name, num_classes=CLASSES)
    lr = np.full(total, 0.01, np.float32)
    optimizer = make_optimizer(model, lr, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=False)
    return Network(model, [0.5] * 3, [0.25] * 3), optimizer


def bare_update(total: int, model_name: str) -> Callable[[Batch], float]:
    """Return a function that makes one update and fetches its loss, as any loop that shows it does."""
    network, optimizer = make_network(total, model_name)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.CrossEntropyLoss()), optimizer)
    if distributed.world_size() > 1:
        step.reducer_flag = True
        step.grad_reducer = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=distributed.world_size())
    step.set_train()
    return lambda batch: float(step(Tensor(batch.images), Tensor(batch.labels)).asnumpy())


def noise(images: int, size: int) -> Batch:
    """Return a batch of uint8 noise, (images, 3, size, size); each rank its own."""
    rng = np.random.default_rng(distributed.rank())
    pixels = rng.integers(0, 256, (images, 3, size, size), np.uint8)
    return Batch(pixels, rng.integers(0, CLASSES, images).astype(np.int32), np.arange(images))
