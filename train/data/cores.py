"""How many threads may read data on this rank."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from fractions import Fraction

from train import distributed


def reading_threads(asked: int = 0) -> int:
    """Return ``asked``, or where it is 0 this rank's share of the machine's cores (at least 1).

    Collective: every rank tells which cores it may use, so a job whose ranks share all cores and one whose ranks are
    bound to their own come out the same.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    everyone = distributed.gather_json([socket.gethostname(), usable])
    here = [cores for host, cores in everyone if host == socket.gethostname()]
    return asked or max(1, int(share_of_cores(usable, here)))


def share_of_cores(mine: Sequence[int], of_all: Sequence[Sequence[int]]) -> Fraction:
    """Return how many cores are left for the owner of ``mine`` when each core is split among all who may use it."""
    # Exact: in float64 the shares of 3 ranks in 6 cores add up to less than 2.
    return sum((Fraction(1, sum(core in cores for cores in of_all)) for core in mine), Fraction())
