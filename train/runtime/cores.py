"""A rank's part of the machine's cores, where ``launch/`` says how many ranks there are on it.

MindSpore makes as many threads as it sees cores: two ranks on two cores are four threads that wait for each other. So
each rank is bound to ``cores // ranks`` of them, by its number on this machine. What else runs there does not matter:
two jobs beside each other share cores, and lose no more by it than where neither is bound.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import zlib
from pathlib import Path


def take_part() -> None:
    """Bind this process to its part of the cores; must run before ``import mindspore``. Later calls do nothing.

    Nothing is done where a rank's part is less than a core, or all of them; nor in msrun's scheduler.
    """
    ranks = int(os.environ.pop("LAUNCH_RANKS", "1"))  # once, and not in a process that a user's hook starts
    if os.environ.get("MS_ROLE") == "MS_SCHED" or not hasattr(os, "sched_getaffinity"):
        return
    usable = sorted(os.sched_getaffinity(0))
    allowed = min(len(usable), quota())
    limited = allowed < len(usable)
    part = int(allowed / ranks) or int(limited)
    if 0 < part < len(usable):
        first = part * int(os.environ.get("DEVICE_ID", "0"))  # msrun's: the number of the rank on this machine
        # The containers of a machine do not see each other: not all of them begin with core 0.
        first += zlib.crc32(socket.gethostname().encode()) if limited else 0
        os.sched_setaffinity(0, {usable[(first + core) % len(usable)] for core in range(part)})


def seen() -> int:
    """Return how many cores this process sees."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
