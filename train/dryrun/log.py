"""What MindSpore's log and the stand-ins' record say about each part of a dry run."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.dryrun.kernels import Taken, is_unchecked, maybe_on_the_ai_cpu, refusals, unpublished
from train.runtime.errors import UserError

MARK = "DRY RUN "
"""Begins the lines that the compiling process writes between those of MindSpore, each with a JSON object."""
SHOWN = "{DEVICE:1}"
"""The part of MindSpore's log that holds a line for each kernel it makes (``MS_SUBMODULE_LOG_v``)."""
TO_THE_HOST = "to the host"
"""The stand-ins' line for a copy from the device to the host, which waits until all before it has run."""
TAKES = "takes "
"""Begins the stand-ins' line for what a kernel is given: its name, and a number of CANN's for each tensor's type."""
AGAIN, ENOUGH = "AGAIN", "ENOUGH"
"""In the record before and behind the second time that a part runs, which compiles nothing."""
# What the simulation cannot follow: the size of a tensor that depends on values, which nothing computes here.
UNKNOWN = re.compile(r"dynamic shape graph")
IN_FILE = re.compile(r"In file (\S+?\.py:\d+)")
NODE = re.compile(r"PrimFunc_(\w+)\(.*\n +: \((.*)\) ->.*((?:\n +[:#].*)*)")
"""Of a graph that MindSpore writes down: the operator, what it is given, and among the lines that follow its places."""
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


@dataclass
class Part:
    """What was compiled in one go: an update, or an evaluation step."""

    name: str
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operator, MindSpore's type of kernel): kernels made, in all branches"""
    launched: Counter[str] = field(default_factory=Counter)
    """what CANN was asked for, in the branches that were taken: "aclop Conv2D", "aclnnAdd", …"""
    taken: Counter[Taken] = field(default_factory=Counter)
    """what these kernels were given"""
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kernel, type that it is not said to take): the line of code it is made of"""
    exchange_bytes: list[int] = field(default_factory=list)
    """what each sum over ranks sends, in the order of their launch"""
    memory: int | None = None
    """MindSpore's own count of the device's memory, bytes: without what CANN's kernels need to work in"""
    about: str | None = None
    """lines that say what is compiled"""
    waits: int = 0
    """copies to the host when it runs for the second time"""
    error: str | None = "ended before it was compiled"
    unknown: bool = True
    """whether the error is no fault of the model's, but a limit of the simulation or of this machine"""

    def figures(self, ai_cpu: set[str]) -> dict[str, Any]:
        """Return what the command prints and writes as JSON."""
        rows = [(-count, operator, self.kind(operator, kind, ai_cpu)) for (operator, kind), count in self.made.items()]
        refused = [
            f"{kernel} does not take {name}{self.places.get((kernel, name), '')}"
            for kernel, name in refusals(self.taken, ai_cpu)
        ]
        counts: Counter[str] = Counter()
        for negative, _, kind in rows:
            counts[kind] -= negative
        return {
            "launches": sum(self.launched.values()),
            "exchanges": counts["hccl"],
            "exchange_bytes": self.exchange_bytes,
            "ai_cpu": counts["AI CPU"],
            "maybe_ai_cpu": maybe_on_the_ai_cpu(self.taken, ai_cpu),
            "host": counts["host"],
            "casts": sum(count for (operator, _), count in self.made.items() if operator == "Cast"),
            "host_waits": self.waits,
            "unchecked": {name: count for name, count in self.launched.items() if is_unchecked(name)},
            "memory_bytes": self.memory,
            "operators": [{"operator": name, "kernels": -count, "kind": kind} for count, name, kind in sorted(rows)],
            "asked_of_cann": dict(self.launched.most_common()),
            "error": self.error or "; ".join(refused) or None,
            "unknown": self.error is not None and self.unknown,
        }

    def kind(self, operator: str, kernel_type: str, ai_cpu: set[str]) -> str:
        """Return what the table calls a kernel.

        MindSpore asks CANN for operators by name. For those that CANN lacks it brings kernels for the AI CPU,
        registered under "Cust" and the name: CANN being asked for "CustX" settles it. Of an operator that was not
        launched (the branch was not taken) it is assumed if there is a "CustX".
        """
        kind, own = KINDS.get(kernel_type, kernel_type), f"Cust{operator}"
        if kind == "host" and operator.endswith("View"):
            return "view"
        assumed = own in ai_cpu and not self.launched[f"aclop {operator}"]
        return "AI CPU" if kind == "aclop" and (self.launched[f"aclop {own}"] or assumed) else kind


def read_parts(log: Iterable[str], record: Iterable[str], exchanges: Iterable[str]) -> list[Part]:
    """Put together what was written about each part.

    Args:
        log: lines of the compiling process: MindSpore's log, and its own marks.
        record: lines of the stand-ins: launches, and the same marks.
        exchanges: lines of ``comm_execute_order.csv``, in which MindSpore lists the exchanges of a simulation.

    Raises:
        UserError: where a training would not begin.
    """
    parts, kept = [Part("before")], 0
    for line in log:
        if made := MADE.search(line):
            parts[-1].made[made[1], made[2]] += 1
        elif line.startswith(MARK):
            said = json.loads(line[len(MARK) :])
            if "part" in said:
                parts.append(Part(said["part"]))
            elif "refused" in said:
                raise UserError(said["refused"])
            elif "kept" in said:
                kept = said["kept"]
            elif "about" in said:
                parts[-1].about = said["about"]
            elif "error" in said:
                parts[-1].error, parts[-1].unknown = said["error"], bool(UNKNOWN.search(said["error"]))
            else:
                parts[-1].error, parts[-1].memory = None, said["memory"] - kept
    at, again = 0, False
    for line in map(str.strip, record):
        if line.startswith(MARK):
            at, again = at + 1, False
        elif line in (AGAIN, ENOUGH):
            again = line == AGAIN
        elif line == TO_THE_HOST:
            parts[at].waits += again
        elif line.startswith(TAKES):
            kernel, _, types = line.removeprefix(TAKES).partition(" of ")
            parts[at].taken[kernel, tuple(map(int, types.split()))] += 1
        elif not again and line not in ("aclnnInit", "aclnnFinalize"):
            parts[at].launched[line] += 1
    sizes = [int(row["input_size"]) for row in csv.DictReader(exchanges) if row["primitive"] == "AllReduce"]
    for part in parts:
        count = part.made["AllReduce", "hccl_kernel"]
        part.exchange_bytes, sizes = sizes[:count], sizes[2 * count :]  # it ran twice
    return parts[1:]


def note_places(parts: Iterable[Part], graphs: Path) -> None:
    """Look up, in what MindSpore wrote into the folder ``graphs``, where types come from that kernels do not take."""
    wanted = {(kernel, name) for part in parts for kernel, types in part.taken for name in unpublished(kernel, types)}
    if not wanted:
        return
    nodes = [found for path in graphs.rglob("*.ir") for found in NODE.findall(path.read_text(errors="replace"))]
    places = {one: place_of(*one, nodes) for one in wanted}
    for part in parts:
        part.places = places


def place_of(kernel: str, type_name: str, nodes: Iterable[tuple[str, str, str]]) -> str:
    """Return " (file:line)" of the first operator that is named as ``kernel`` is and given such a type, or nothing."""
    name = kernel.removeprefix("aclop ").removeprefix("aclnn").lower()
    for operator, given, lines in nodes:
        if operator.lower().startswith(name) and f"tensor[{type_name}]" in given.lower():
            return f" ({innermost(IN_FILE.findall(lines))})"
    return ""


def innermost(places: Iterable[str]) -> str:
    """Return, of "file:line" from the outside in, the last that is in a user's code; where none is, in ours."""
    places = [place for place in places if "/site-packages/" not in place and place.startswith("/")]
    root = Path(__file__).parents[2]
    readers = [place for place in places if not place.startswith((f"{root / 'train'}/", f"{root / 'models'}/"))]
    return (readers or places or [""])[-1]
