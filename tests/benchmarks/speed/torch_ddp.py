"""The same work in PyTorch: DistributedDataParallel over gloo, on as many processes; ResNet-20 with shortcut A.

    python -m tests.benchmarks.speed.torch_ddp --ranks 2 --batch 64 --updates 20

Imports nothing of MindSpore, so an environment that holds PyTorch and NumPy is enough.
"""

from __future__ import annotations

import argparse
import os

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.speed.measure import median_seconds, report
from tests.jobs import free_port
from tests.models.reference import Case
from tests.models.torch_resnet import TorchResNet
from train.runtime.errors import OneLineParser

RESNET20 = Case("resnet20", (3, 3, 3), (16, 32, 64), shortcut="A", stem="cifar", bottleneck=False, size=32)


def main() -> None:
    parser = OneLineParser(prog="python -m tests.benchmarks.speed.torch_ddp", description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="images of each rank")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    if options.ranks == 1:
        work(0, options)
    else:
        multiprocessing.spawn(work, (options,), nprocs=options.ranks)


def work(rank: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    model: nn.Module = TorchResNet(RESNET20).to(memory_format=layout)
    if options.ranks > 1:
        distributed.init_process_group("gloo", rank=rank, world_size=options.ranks)
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(rank)
    pixels = torch.randint(0, 256, (options.batch, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (options.batch,), generator=generator)

    def update() -> None:
        images = ((pixels.float() / 255 - 0.5) / 0.25).contiguous(memory_format=layout)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    figure = median_seconds(update, options.updates)
    if rank == 0:
        report(figure)
    if options.ranks > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
