"""A rank's part of the machine's cores, where ``launch/`` says how many ranks there are on it.

MindSpore makes as many threads as it sees cores: two ranks on two cores are four threads that wait for each other. So
each rank sees ``cores // ranks``, whatever else the machine does. It is bound to cores of its own if so many are not
taken by another rank of these scripts, of this job or of one beside it; else it may run on all, once its threads are
made.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Iterable
from pathlib import Path

NAME = "resnet-training-core-{}"
"""Of a core that a rank has taken, in Linux's abstract namespace of sockets: no file, and gone with its process."""
_claimed: list[socket.socket] = []
_all: set[int] = set()
"""The cores of a rank that is not bound, but has seen fewer so far."""


def take_part() -> None:
    """Let this process see its part of the cores; must run before ``import mindspore``. Later calls do nothing.

    Nothing is done where a rank's part is less than a core, or all of them; nor in msrun's scheduler.
    """
    ranks = os.environ.pop("LAUNCH_RANKS", "")  # once, and not in a process that a reader's hook starts
    if os.environ.get("MS_ROLE") == "MS_SCHED" or not hasattr(os, "sched_getaffinity"):
        return
    usable = sorted(os.sched_getaffinity(0))
    allowed = min(len(usable), quota())
    limited = allowed < len(usable)
    part = int(allowed / int(ranks or 1)) or int(limited)
    if 0 < part < len(usable) and not _all:
        first = part * int(os.environ.get("DEVICE_ID", "0"))  # msrun's: the number of the rank on this machine
        ours = [*usable[first:], *usable[:first]]
        # With a share of their time, the cores are nobody's: containers do not see what the others take.
        claimed = None if limited else claim(ours, part)
        if claimed is None:
            _all.update(usable)
        os.sched_setaffinity(0, claimed or ours[:part])


def seen() -> int:
    """Return how many cores this process sees."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def claim(cores: Iterable[int], count: int) -> set[int] | None:
    """Take the first ``count`` of ``cores`` that no other process has, until this one ends; None: too few are free."""
    taken: dict[int, socket.socket] = {}
    for core in cores:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind("\0" + NAME.format(core))
            taken[core] = name
        except OSError:
            name.close()
        if len(taken) == count:
            _claimed.extend(taken.values())
            return set(taken)
    for name in taken.values():
        name.close()
    return None


def spread() -> None:
    """Let a rank that has no cores of its own run on all of them, with the threads that it has made by now."""
    for thread in os.listdir("/proc/self/task") if _all else ():
        with contextlib.suppress(OSError):  # ended meanwhile
            os.sched_setaffinity(int(thread), _all)
    _all.clear()


def quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many cores' time the control groups of this process leave it, a container's; infinity: no limit.

    Args:
        groups: where the groups are mounted, of version 1 or 2.
        own: which of them this process is in. Inside a container that may be its name outside; its own is at the top.
    """
    limits = [math.inf]
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted, inside = groups / ("cpu" if controllers else ""), Path(path.lstrip("/"))
        for folder in (mounted, *(mounted / group for group in (inside, *inside.parents))):
            for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
                with contextlib.suppress(OSError):
                    allowed, period = " ".join((folder / file).read_text() for file in files).split()
                    limits += [] if allowed in ("max", "-1") else [int(allowed) / int(period)]
    return min(limits)
