"""On every rank: does one update use the mean gradient, and does a poisoned one leave no trace?"""

from __future__ import annotations

import json
from typing import Any

from train.runtime import device

device.configure("cpu")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402

import schedules  # noqa: E402
from tests.faults.inject import Small  # noqa: E402
from train.data.arrays import open_digits  # noqa: E402
from train.data.loader import TrainLoader  # noqa: E402
from train.runtime import distributed  # noqa: E402
from train.step.network import Network, moving_statistics  # noqa: E402
from train.step.optimizer import make_optimizer  # noqa: E402
from train.step.options import StepOptions  # noqa: E402
from train.step.reduction import Reducer  # noqa: E402
from train.step.train_step import TrainStep  # noqa: E402

GLOBAL_BATCH = 64
CLIP = 0.1  # far below every rank's own gradient norm
GO_ON = Tensor(np.zeros(1, np.float32))


def main() -> None:
    distributed.init()
    print(json.dumps({"gradients": compare_gradients(), "poisoned": poison_one_rank()}))


def build(momentum: float, weight_decay: float) -> tuple[Any, ...]:
    source = open_digits(8).train
    loader = TrainLoader(
        source, global_batch=GLOBAL_BATCH, seed=1, rank=distributed.rank(), world_size=distributed.world_size()
    )
    ms.set_seed(distributed.rank())  # different on purpose: rank 0's weights must win
    model = Small(num_classes=10, in_channels=1)
    distributed.broadcast_parameters(list(model.get_parameters()))
    lr = schedules.get_lr(lr_init=0.01, lr_max=0.1, lr_end=0.001, warmup_steps=2, total_steps=10)
    optimizer = make_optimizer(model, lr, momentum=momentum, weight_decay=weight_decay, decay_norm_and_bias=False)
    network = Network(model, source.mean, source.std)
    return loader, model, network, optimizer


def make_step(
    loader: TrainLoader, network: Network, optimizer: Any, reduce: bool = True, clip_norm: float = 0.0
) -> TrainStep:
    step = TrainStep(
        network,
        optimizer,
        global_batch=GLOBAL_BATCH,
        world_size=distributed.world_size(),
        rank=distributed.rank(),
        options=StepOptions(clip_norm=clip_norm),
    )
    if not reduce:
        step.reducer = Reducer(world_size=1)
    return step


def compare_gradients() -> dict[str, list[float]]:
    """For two updates, reduced, not reduced and clipped: how far velocity and norm are from the gradient's mean.

    Without momentum the velocity is the gradient itself. All differences are relative to the expected value; clipped,
    that is the mean of all ranks' gradients cut to ``CLIP``, and not a mean of gradients that each rank has cut.
    """
    differences: dict[str, list[float]] = {}
    for name, reduce, clip in (("reduced", True, 0.0), ("left out", False, 0.0), ("clipped", True, CLIP)):
        loader, _, network, optimizer = build(momentum=0.0, weight_decay=0.0)
        step = make_step(loader, network, optimizer, reduce, clip)
        own_gradient = ms.value_and_grad(
            nn.WithLossCell(network, nn.CrossEntropyLoss()).set_train(), None, optimizer.parameters
        )
        share = loader.local_batch / GLOBAL_BATCH
        for batch in loader.batches(0, 2):
            images, labels = Tensor(batch.images), Tensor(batch.labels)
            _, own = own_gradient(images, labels)
            expected = distributed.gather_array(share * flatten(own)).sum(axis=0)
            result = step.report.read(step(images, labels, GO_ON))
            norm = np.linalg.norm(expected)
            factor = min(1.0, clip / norm) if clip else 1.0
            off = abs(flatten(optimizer.moments) - factor * expected).max()
            differences.setdefault(name, []).append(off / (factor * norm))
            differences.setdefault(f"{name}, norm", []).append(abs(result.grad_norm - norm) / norm)
    return differences


def flatten(tensors: Any) -> np.ndarray:
    return np.concatenate([tensor.asnumpy().ravel() for tensor in tensors]).astype(np.float64)


def poison_one_rank() -> dict[str, Any]:
    """Make updates 0, 1, 2, with a NaN pixel in the last rank's batch of update 1."""
    loader, model, network, optimizer = build(momentum=0.9, weight_decay=1e-4)
    step = make_step(loader, network, optimizer)
    watched = [*model.trainable_params(), *optimizer.moments, *moving_statistics(model)]
    states, results = [], []
    for t, batch in enumerate(loader.batches(0, 3)):
        images = batch.images.astype(np.float32)
        if t == 1 and distributed.rank() == distributed.world_size() - 1:
            images[0, 0, 0, 0] = np.nan
        results.append(step.report.read(step(Tensor(images), Tensor(batch.labels), GO_ON)))
        states.append([parameter.asnumpy().copy() for parameter in watched])
    return {
        "applied": [result.applied for result in results],
        "bad_ranks": [result.bad_ranks for result in results],
        "lr": [result.lr for result in results],
        "loss_finite": [bool(np.isfinite(result.loss)) for result in results],
        "changed": [
            sum(not np.array_equal(a, b) for a, b in zip(states[t], states[t + 1], strict=True)) for t in (0, 1)
        ],
        "watched": len(watched),
        "global_step": int(optimizer.global_step.asnumpy()[0]),
    }


if __name__ == "__main__":
    main()
