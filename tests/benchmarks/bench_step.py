"""What our update costs against MindSpore's own bare one, as ratios measured in turn in one process.

    python -m tests.benchmarks.bench_step
    msrun --worker_num=2 --local_worker_num=2 --join=True python -m tests.benchmarks.bench_step --batch 64

"bare" is ``nn.TrainOneStepCell`` over the same model, loss, optimizer and batch: no figures but the loss, no guard. Its
ratio is 1; a ratio of 0.97 means 97% of its images/s. Rounds of a few updates alternate, so that a change of the
machine's speed meets all variants alike; the table shows the median ratio and its quartiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from train import device

device.configure("cpu")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402

import models  # noqa: E402
from train import distributed  # noqa: E402
from train.data.loader import Batch  # noqa: E402
from train.network import Network  # noqa: E402
from train.optimizer import make_optimizer  # noqa: E402
from train.step import TrainStep, Update  # noqa: E402

WATCHED = ["fc.weight", "layer3.2.conv2.weight"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_step", description=__doc__)
    parser.add_argument("--batch", type=int, default=128, help="images of each rank")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--updates", type=int, default=4, help="updates of each variant in a round")
    options = parser.parse_args()
    distributed.init()
    rng = np.random.default_rng(distributed.rank())
    images = rng.integers(0, 256, (options.batch, 3, options.size, options.size), np.uint8)
    batch = Batch(images, rng.integers(0, 10, options.batch).astype(np.int32), np.arange(options.batch))
    total = (options.rounds + 1) * options.updates + 1
    variants = {
        "bare": bare_update(total),
        "ours": our_update(total, options.batch, []),
        f"ours, {len(WATCHED)} layers measured": our_update(total, options.batch, WATCHED),
    }
    report(measure(variants, batch, options.rounds, options.updates), options.batch)


def make_network(total: int) -> tuple[Network, nn.Momentum]:
    ms.set_seed(1)
    model = models.create_model("resnet20", num_classes=10)
    lr = np.full(total, 0.01, np.float32)
    optimizer = make_optimizer(model, lr, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=False)
    return Network(model, [0.5] * 3, [0.25] * 3), optimizer


def bare_update(total: int) -> Callable[[Batch, int], object]:
    network, optimizer = make_network(total)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.CrossEntropyLoss()), optimizer)
    if distributed.world_size() > 1:
        step.reducer_flag = True
        step.grad_reducer = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=distributed.world_size())
    step.set_train()
    return lambda batch, t: step(Tensor(batch.images), Tensor(batch.labels)).asnumpy()


def our_update(total: int, batch: int, watched: list[str]) -> Callable[[Batch, int], object]:
    network, optimizer = make_network(total)
    world_size = distributed.world_size()
    step = TrainStep(
        network,
        optimizer,
        global_batch=batch * world_size,
        world_size=world_size,
        rank=distributed.rank(),
        watched=watched,
    )
    return Update(step)


def measure(
    variants: dict[str, Callable[[Batch, int], object]], batch: Batch, rounds: int, updates: int
) -> dict[str, np.ndarray]:
    """Return seconds an update for each variant and round; a first round compiles and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, update in variants.items():
            began = time.perf_counter()
            for t in range(updates):
                update(batch, t)
            if number:
                seconds[name].append((time.perf_counter() - began) / updates)
    return {name: np.array(values) for name, values in seconds.items()}


def report(seconds: dict[str, np.ndarray], batch: int) -> None:
    if distributed.rank() != 0:
        return
    print(f"{distributed.world_size()} ranks of {batch} images; images/s against bare (quartiles)")
    for name, values in seconds.items():
        low, middle, high = np.percentile(seconds["bare"] / values, [25, 50, 75])
        print(
            f"{name:28} {1e3 * np.median(values):7.1f} ms an update   {middle:5.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
