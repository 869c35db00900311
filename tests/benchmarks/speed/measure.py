"""Measure variants in turn, in jobs or inside one, and say what came out as ratios."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.jobs import ROOT, environment, free_port, msrun_command
from tests.machines import ADDRESSES

FIGURES, STARTED = "SPEED_FIGURES", "SPEED_STARTED"
"""Variables that tell a worker where its figures go, and when its command began (Unix time, s)."""
WARM_UP = 3


def take_turns(
    variants: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[str, np.ndarray]:
    """Call every variant once a round, so that a change of the machine's speed meets all alike.

    Args:
        variants: each returns its own figure, mostly seconds.
        rounds: how many count.
        warm_up: whether one more comes first, in which graphs are compiled.

    Returns:
        Each variant's figures, float64 (rounds,).
    """
    figures: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + warm_up):
        for name, variant in variants.items():
            figure = variant()
            if number >= warm_up:
                figures[name].append(figure)
    return {name: np.array(values) for name, values in figures.items()}


def seconds(action: Callable[[], object], times: int = 1) -> float:
    """Return the wall time of one ``action``, the mean of ``times`` in a row."""
    began = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - began) / times


def median_seconds(action: Callable[[], object], times: int) -> float:
    """Return the median wall time of ``action``, called ``times`` times after ``WARM_UP`` that do not count."""
    return float(np.median([seconds(action) for _ in range(WARM_UP + times)][WARM_UP:]))


def table(title: str, figures: Mapping[str, Sequence[float] | np.ndarray], reference: str) -> list[str]:
    """Return a Markdown table: each variant's median milliseconds, and how many times as fast as the reference."""
    lines = [f"| {title} | ms, median | ratio | its quartiles |", "|---|--:|--:|--:|"]
    for name, values in figures.items():
        low, middle, high = np.percentile(np.asarray(figures[reference]) / np.asarray(values), [25, 50, 75])
        lines.append(f"| {name} | {1e3 * np.median(values):.1f} | **{middle:.3f}** | {low:.3f}–{high:.3f} |")
    return lines


def run_job(
    ranks: int,
    task: Sequence[str],
    variables: Mapping[str, str] | None = None,
    *,
    python: str = "python",
    nodes: Sequence[str] = (),
) -> Any:
    """Run ``python *task`` and return what its rank 0 handed to :func:`report`.

    Args:
        ranks: started by msrun; 0: no msrun, one process.
        variables: of the environment, besides the tests' own.
        nodes: network namespaces over which the ranks are spread, the first with the first of ``ADDRESSES``.

    Raises:
        RuntimeError: with all output, when the job fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        own = {FIGURES: str(out), STARTED: repr(time.time())}
        everything = {**environment(), **own, **(variables or {})}
        started = commands(ranks, task, Path(folder, "logs"), nodes) if ranks else [[python, *task]]
        processes = [
            subprocess.Popen(
                command, cwd=ROOT, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for command in started
        ]
        output = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes) or not out.exists():
            logs = "".join(path.read_text() for path in Path(folder).glob("logs/**/worker_*.log"))
            raise RuntimeError(f"{' '.join(task)} failed\n{''.join(output)}{logs}")
        return json.loads(out.read_text())


def commands(ranks: int, task: Sequence[str], folder: Path, nodes: Sequence[str]) -> list[list[str]]:
    """Return the command of each node that together run ``task`` on ``ranks`` ranks."""
    if not nodes:
        return [msrun_command(ranks, task, folder)]
    port = free_port()
    places = [(f"--master_addr={ADDRESSES[0]}", f"--node_rank={node}") for node in range(len(nodes))]
    return [
        [
            *("ip", "netns", "exec", name),
            *msrun_command(ranks, task, folder / name, *place, nodes=len(nodes), port=port),
        ]
        for name, place in zip(nodes, places, strict=True)
    ]


def report(figures: Any) -> None:
    """Hand figures to :func:`run_job`, or print them. For rank 0 only, as all ranks would write the same file."""
    if FIGURES in os.environ:
        Path(os.environ[FIGURES]).write_text(json.dumps(figures))
    else:
        print(json.dumps(figures))


def machine() -> str:
    """Describe in one line what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{len(os.sched_getaffinity(0))} cores, {model}"
