"""What the ranks check together: the three exchanges that training uses, with values that are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from train.preflight.findings import Finding, look
from train.preflight.machine import first_line
from train.runtime import distributed
from train.runtime.errors import UserError
from train.step.reduction import BUCKET_BYTES

MODULUS = 8  # the sum of (rank + 1) * 7 over up to 2,000 ranks is still exact in float32


def exchange(name: str) -> Finding:
    """Do one of :data:`EXCHANGES` twice, the second time against the clock. Collective.

    A single process has nothing to exchange.
    """
    if distributed.world_size() == 1:
        return Finding(name, True, "nothing to exchange: one rank")
    return look(name, lambda: _timed(EXCHANGES[name]))


def all_reduce() -> str:
    """Sum one bucket of gradients' worth of float32 over all ranks."""
    ranks = distributed.world_size()
    values = np.arange(BUCKET_BYTES // 4, dtype=np.float32) % MODULUS
    total = ops.AllReduce()(ms.Tensor(values * (distributed.rank() + 1))).asnumpy()
    _compare(total, values * (ranks * (ranks + 1) // 2))
    return f"exact sums of {BUCKET_BYTES >> 20} MiB"


def all_gather() -> str:
    """Collect a few whole numbers of each rank, in the order of ranks."""
    ranks = distributed.world_size()
    rows = distributed.gather_array(np.array([distributed.rank(), ~distributed.rank()], np.int64))
    _compare(rows, np.stack([np.arange(ranks), ~np.arange(ranks)], axis=1))
    return "every rank in its place"


def broadcast() -> str:
    """Give every rank the values of rank 0."""
    own = ms.Parameter(ms.Tensor(np.full(1000, distributed.rank() + 1, np.float32)), name="of_this_rank")
    distributed.broadcast_parameters([own])
    _compare(own.asnumpy(), np.ones(1000, np.float32))
    return "rank 0's values everywhere"


EXCHANGES = {"all-reduce": all_reduce, "all-gather": all_gather, "broadcast": broadcast}


def describe_world(world: list[dict[str, Any]]) -> str:
    """Compare what ranks must have in common.

    Args:
        world: for each rank its host and what must be equal, by name; None where a check of its own has failed.

    Raises:
        UserError: names the first thing that differs, the rank and both values.
    """
    for number, rank in enumerate(world):
        for name, value in rank.items():
            if name != "host" and None not in (value, world[0][name]) and value != world[0][name]:
                raise UserError(
                    f"rank {number} ({rank['host']}) has {name} {value}, rank 0 ({world[0]['host']}) has "
                    f"{world[0][name]}: make them the same"
                )
    hosts = {rank["host"] for rank in world}
    machines = "one machine" if len(hosts) == 1 else f"{len(hosts)} machines"
    return f"{len(world)} on {machines}" + (", same versions, recipe and data" if len(world) > 1 else "")


def _timed(action: Callable[[], str]) -> str:
    try:
        action()  # the first message also sets up connections and compiles
        started = time.perf_counter()
        text = action()
    except RuntimeError as error:
        raise UserError(f"failed ({first_line(error)}); check the network between the nodes") from None
    return f"{text}, {1000 * (time.perf_counter() - started):.1f} ms"


def _compare(found: np.ndarray, wanted: np.ndarray) -> None:
    wrong = np.argwhere(found != wanted)
    if len(wrong):
        place = tuple(wrong[0])
        raise UserError(
            f"{len(wrong)} of {wanted.size} values are wrong, the first is {found[place]} instead of {wanted[place]}; "
            "check driver, firmware and network of this rank's device"
        )
