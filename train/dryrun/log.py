"""What MindSpore's log and the stand-ins' record say about each part of a dry run."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MARK = "DRY RUN "
"""Begins the lines that the compiling process writes between those of MindSpore, each with a JSON object."""
SHOWN = "{DEVICE:1}"
"""The part of MindSpore's log that holds a line for each kernel it makes (``MS_SUBMODULE_LOG_v``)."""
TO_THE_HOST = "to the host"
"""The stand-ins' line for a copy from the device to the host, which waits until all before it has run."""
AGAIN, ENOUGH = "AGAIN", "ENOUGH"
"""In the record before and behind the second time that a part runs, which compiles nothing."""
# What the simulation cannot follow: the size of a tensor that depends on values, which nothing computes here.
UNKNOWN = re.compile(r"dynamic shape graph")
MADE = re.compile(r"GenerateKernelMod\] kernel opname:(\S+), kernel type:(\w+)")

KINDS = {
    "opapi_kernel": "aclnn",
    "acl_kernel": "aclop",
    "hccl_kernel": "hccl",
    "host_kernel": "host",
    "cpu_kernel": "host",
    "rt_kernel": "-",
    "aicpu_kernel": "AI CPU",
    "internal_kernel": "internal",
    "atb_kernel": "atb",
    "akg_kernel": "fused",
}
"""MindSpore's types of kernels, and what the table calls them (README.md explains each)."""
NO_KERNEL = ("-", "view")


@dataclass
class Part:
    """What was compiled in one go: an update, or an evaluation step."""

    name: str
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operator, MindSpore's type of kernel): kernels made, in all branches"""
    launched: Counter[str] = field(default_factory=Counter)
    """what CANN was asked for, in the branches that were taken: "aclop Conv2D", "aclnnAdd", …"""
    exchange_bytes: list[int] = field(default_factory=list)
    """what each exchange sends, in the order of their launch"""
    memory: int | None = None
    """MindSpore's own count of the device's memory, bytes: without what CANN's kernels need to work in"""
    waits: int = 0
    """copies to the host when it runs for the second time"""
    error: str | None = "ended before it was compiled"
    unknown: bool = True
    """whether the error is no fault of the model's, but a limit of the simulation or of this machine"""

    def rows(self, adapters: set[str]) -> list[tuple[str, int, str]]:
        """Return (operator, kernels, kind), most kernels first; ``adapters``: see :meth:`on_ai_cpu`."""
        rows = []
        for (operator, kernel_type), count in self.made.items():
            kind = KINDS.get(kernel_type, kernel_type)
            if kind == "host" and operator.endswith("View"):
                kind = "view"
            if kind == "aclop" and self.on_ai_cpu(operator, adapters):
                kind = "AI CPU"
            rows.append((operator, count, kind))
        return sorted(rows, key=lambda row: (-row[1], row))

    def on_ai_cpu(self, operator: str, adapters: set[str]) -> bool:
        """Whether an aclop kernel runs on the device's ordinary cores.

        MindSpore asks CANN for operators by name. For those that CANN lacks it brings kernels for the AI CPU,
        registered under "Cust" and the name: CANN being asked for "CustX" settles it. Of an operator that was not
        launched (the branch was not taken) it is assumed if "CustX" is among ``adapters``.
        """
        if self.launched[f"aclop Cust{operator}"]:
            return True
        return not self.launched[f"aclop {operator}"] and f"Cust{operator}" in adapters

    def figures(self, adapters: set[str]) -> dict[str, Any]:
        """Return what the command prints and writes as JSON."""
        rows = self.rows(adapters)
        counts: Counter[str] = Counter()
        for _, count, kind in rows:
            counts[kind] += count
        return {
            "launches": sum(self.launched.values()),
            "exchanges": counts["hccl"],
            "exchange_bytes": self.exchange_bytes,
            "ai_cpu": counts["AI CPU"],
            "host": counts["host"],
            "casts": self.of("Cast"),
            "host_waits": self.waits,
            "kernels": sum(count for kind, count in counts.items() if kind not in NO_KERNEL),
            "memory_bytes": self.memory,
            "operators": [{"operator": name, "kernels": count, "kind": kind} for name, count, kind in rows],
            "asked_of_cann": dict(self.launched.most_common()),
            "error": self.error,
            "unknown": self.error is not None and self.unknown,
        }

    def of(self, operator: str) -> int:
        """Return how many kernels were made for ``operator``."""
        return sum(count for (name, _), count in self.made.items() if name == operator)


def read_parts(log: Iterable[str], record: Iterable[str], exchanges: Iterable[str]) -> list[Part]:
    """Put together what was written about each part.

    Args:
        log: lines of the compiling process: MindSpore's log, and its own marks.
        record: lines of the stand-ins: launches, and the same marks.
        exchanges: lines of ``comm_execute_order.csv``, in which MindSpore lists the exchanges of a simulation.
    """
    parts = [Part("before")]
    for line in log:
        if made := MADE.search(line):
            parts[-1].made[made[1], made[2]] += 1
        elif line.startswith(MARK):
            said = json.loads(line[len(MARK) :])
            if "part" in said:
                parts.append(Part(said["part"]))
            else:
                parts[-1].error, parts[-1].memory = said.get("error"), said.get("memory")
                parts[-1].unknown = bool(UNKNOWN.search(parts[-1].error or ""))
    at, again = 0, False
    for line in map(str.strip, record):
        if line.startswith(MARK):
            at, again = at + 1, False
        elif line in (AGAIN, ENOUGH):
            again = line == AGAIN
        elif line == TO_THE_HOST:
            parts[at].waits += again
        elif not again and line not in ("aclnnInit", "aclnnFinalize"):
            parts[at].launched[line] += 1
    sizes = [int(row["input_size"]) for row in csv.DictReader(exchanges)]
    for part in parts:
        count = sum(count for (_, kind), count in part.made.items() if kind == "hccl_kernel")
        part.exchange_bytes, sizes = sizes[:count], sizes[count:]
    return parts[1:]
