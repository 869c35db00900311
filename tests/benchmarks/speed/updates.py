"""Updates alone, ours, on ranks and threads as given; and what the exchange of gradients costs in them.

    python -m tests.benchmarks.speed.updates --batch 64 --updates 20             the median seconds of one
    python -m tests.benchmarks.speed.updates --batch 64 --exchange --rounds 7    ways to exchange gradients

:mod:`tests.benchmarks.speed` starts it, mostly through msrun.
"""

from __future__ import annotations

from train.runtime import device

device.configure("cpu")


import mindspore as ms  # noqa: E402

from tests.benchmarks.speed.bare import make_network, noise  # noqa: E402
from tests.benchmarks.speed.measure import WARM_UP, median_seconds, report, seconds, take_turns  # noqa: E402
from train.runtime import distributed  # noqa: E402
from train.runtime.errors import OneLineParser  # noqa: E402
from train.step.feeder import Feeder  # noqa: E402
from train.step.optimizer import decays_beforehand  # noqa: E402
from train.step.reduction import Buckets, Reducer  # noqa: E402
from train.step.train_step import TrainStep  # noqa: E402

MIB = 1 << 20
EXCHANGES = {"no exchange": 0, "one call a parameter": 1, "buckets of 256 KiB": MIB >> 2, "buckets of 8 MiB": 8 * MIB}


def main() -> None:
    parser = OneLineParser(prog="python -m tests.benchmarks.speed.updates", description=__doc__)
    parser.add_argument("--batch", type=int, default=128, help="images of each rank")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--exchange", action="store_true", help="measure the exchange")
    parser.add_argument("--threads", type=int, default=0, help="of MindSpore's runtime; default: its own choice")
    options = parser.parse_args()
    if options.threads:
        ms.runtime.dispatch_threads_num(options.threads)
    distributed.init()
    batch = noise(options.batch, options.size)
    if options.exchange:
        total = (options.rounds + 1) * options.updates
        variants = {name: exchange_update(total, options.batch, size) for name, size in EXCHANGES.items()}
        timed = {
            name: lambda update=update: seconds(lambda: update(batch, 0).result, options.updates)
            for name, update in variants.items()
        }
        figures: object = {name: values.tolist() for name, values in take_turns(timed, options.rounds).items()}
    else:
        update = Feeder(our_step(1 + WARM_UP + options.updates, options.batch))
        assert update(batch, 0).result
        figures = median_seconds(lambda: update(batch, 0).result, options.updates)
    if distributed.rank() == 0:
        report(figures)


def exchange_update(total: int, batch: int, bucket_bytes: int) -> Feeder:
    """Return an update that sends its gradients in buckets of so many bytes; of 0: not at all."""
    step = our_step(total, batch)
    world_size = distributed.world_size() if bucket_bytes else 1
    step.buckets = Buckets(step.optimizer.parameters, bucket_bytes, decays_beforehand(step.optimizer))
    step.reducer = Reducer(world_size, distributed.rank() % world_size, step.buckets.sizes)
    return Feeder(step)


def our_step(total: int, batch: int) -> TrainStep:
    network, optimizer = make_network(total)
    world_size = distributed.world_size()
    return TrainStep(
        network,
        optimizer,
        global_batch=batch * world_size,
        world_size=world_size,
        rank=distributed.rank(),
    )


if __name__ == "__main__":
    main()
