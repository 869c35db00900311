"""How a step's time would grow with the number of ranks: a model on paper, fitted to measured times.

    python -m tests.benchmarks.scaling_model                              published figures of ResNet-50 on Ascend 910
    python -m tests.benchmarks.scaling_model --measured 1:0.28 2:0.31 4:0.37 --images 64 --parameters 272474 --buckets 1
    python -m tests.benchmarks.scaling_model --measured times.csv --plot scaling.png

A CSV file has the columns ``ranks`` and ``seconds`` (of a step). With n ranks, which hold the same number of images
each, a step takes

    T(n) = compute + max(0, latency · log2(n) · buckets + bytes · 2(n - 1) / (n · bandwidth) - overlap)

The second term is what messages cost whatever their size, in trees of depth log2(n); the third is the traffic of a ring
all-reduce, 2(n - 1)/n of the gradients through each rank (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce
algorithms for clusters of workstations"); overlap is the communication that hides behind the backward pass, which for
the graph of this repository is taken as 0. What the model leaves out: slow ranks that the others wait for, reading
data, links that are faster within a node than between nodes, and traffic of others. A projection far beyond the
measured ranks says what to look at, not what will be.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

RESNET50_PARAMETERS = 25_557_032
RESNET50_BUCKETS = 15  # of train.step.reduction, 8 MiB each; a test counts them
PROJECTED = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class StepModel:
    """Times in seconds, ``bandwidth`` in bytes per second and rank, ``size`` (of all gradients) in bytes."""

    size: int
    buckets: int
    compute: float
    latency: float
    bandwidth: float
    overlap: float = 0.0

    def step(self, ranks: int) -> float:
        """Return the seconds of a step on ``ranks`` ranks."""
        per_message, per_byte = features(ranks, self.size, self.buckets)
        communication = self.latency * per_message + per_byte / self.bandwidth
        return self.compute + max(0.0, communication - self.overlap)

    def efficiency(self, ranks: int, reference: int) -> float:
        """Return the throughput of each of ``ranks`` ranks over that of each of ``reference`` ranks."""
        return self.step(reference) / self.step(ranks)


def features(ranks: int, size: int, buckets: int) -> tuple[float, float]:
    """Return what the latency and the inverse bandwidth are multiplied with."""
    return math.log2(ranks) * buckets, 2 * (ranks - 1) / ranks * size


def fit(
    measured: Mapping[int, float],
    *,
    size: int,
    buckets: int,
    latency: float | None = None,
    bandwidth: float | None = None,
    overlap: float = 0.0,
) -> StepModel:
    """Fit compute, and what is None of latency and bandwidth, to the seconds of a step for each number of ranks.

    Least squares of relative errors, no parameter negative. A bandwidth of infinity says that nothing that grows with
    the number of bytes is seen.

    Raises:
        ValueError: for fewer measured numbers of ranks than parameters to fit, or where what is given leaves no time to
            compute.
    """
    unknown = 1 + (latency is None) + (bandwidth is None)
    if len(measured) < unknown:
        raise ValueError(
            f"{unknown} figures are to be fitted to {len(measured)} measured numbers of ranks: measure more, or give "
            "--latency or --bandwidth"
        )
    rows, targets = [], []
    for ranks, seconds in measured.items():
        per_message, per_byte = features(ranks, size, buckets)
        row, target = [1.0], seconds + (overlap if ranks > 1 else 0.0)
        for value, factor in ((latency, per_message), (1 / bandwidth if bandwidth else None, per_byte)):
            if value is None:
                row.append(factor)
            else:
                target -= value * factor
        rows.append(np.array(row) / seconds)
        targets.append(target / seconds)
    matrix = np.array(rows)
    scale = np.abs(matrix).max(axis=0, initial=0.0)
    scale[scale == 0] = 1.0  # one rank only: nothing is exchanged
    found = list(nnls(matrix / scale, np.array(targets))[0] / scale)
    compute = found.pop(0)
    if compute <= 0:
        raise ValueError("communication as given takes all of the measured steps: lower --latency, raise --bandwidth")
    latency = found.pop(0) if latency is None else latency
    if bandwidth is None:
        inverse = found.pop(0)
        bandwidth = 1 / inverse if inverse else math.inf
    return StepModel(size, buckets, float(compute), float(latency), float(bandwidth), overlap)


@dataclass(frozen=True)
class Case:
    """A model with its origin and the images of each rank."""

    title: str
    source: str
    measured: dict[int, float]
    images: int
    model: StepModel

    @property
    def reference(self) -> int:
        """The fewest ranks that were measured."""
        return min(self.measured)

    def lines(self, projected: Sequence[int]) -> list[str]:
        """Return a Markdown table of measured and projected steps."""
        m = self.model
        lines = [
            f"{self.title} ({self.source})",
            "",
            f"compute {1e3 * m.compute:.2f} ms, latency {1e6 * m.latency:.1f} µs a message and doubling, bandwidth "
            f"{m.bandwidth / 1e9:.1f} GB/s, overlap {1e3 * m.overlap:.1f} ms; {m.size / 1e6:.1f} MB in {m.buckets} "
            f"buckets; {self.images} images a rank",
            "",
            f"| ranks | measured ms | model ms | images/s | efficiency against {self.reference} |",
            "| --: | --: | --: | --: | --: |",
        ]
        for ranks in sorted({*projected, *self.measured}):
            seen = f"{1e3 * self.measured[ranks]:.2f}" if ranks in self.measured else ""
            seconds, efficiency = m.step(ranks), m.efficiency(ranks, self.reference)
            images = ranks * self.images / seconds
            lines.append(f"| {ranks} | {seen} | {1e3 * seconds:.2f} | {images:,.0f} | {efficiency:.1%} |")
        return lines


def published() -> list[Case]:
    """Return ResNet-50 on Ascend 910 as others have published it, in mixed precision with gradients in float32.

    MindSpore's own figures are for 1, 8 and 16 cards. Most of their communication is hidden, so the fitted bandwidth
    is no property of a cable: it is what was left to see. MindCV's figure is for 8 cards alone, so what comes on top
    for more is assumed: 50 µs for a message and doubling; 80 GB/s a card, as if each of the 8 cards of a node sent an
    eighth of the gradients to the other nodes through a port of 100 Gbit/s, 80% used; and a quarter of that, which
    leaves hardly more to compute than the 17.9 ms that MindSpore published for one card.
    """
    size, buckets = 4 * RESNET50_PARAMETERS, RESNET50_BUCKETS
    throughput = {1: 1787, 8: 13689, 16: 27090}
    seen = {cards: 32 * cards / images for cards, images in throughput.items()}
    source = "MindSpore 0.2 documentation, page Benchmarks"
    cases = [Case("Fitted to 1, 8 and 16 cards", source, seen, 32, fit(seen, size=size, buckets=buckets))]
    seen = {8: 0.03141}
    source = "MindCV, page ResNet, MindSpore 2.3.1, Ascend 910: 31.41 ms (910*: 31.9 ms)"
    for gigabytes in (80, 20):
        model = fit(seen, size=size, buckets=buckets, latency=50e-6, bandwidth=gigabytes * 1e9)
        cases.append(Case(f"8 cards measured; 50 µs and {gigabytes} GB/s assumed", source, seen, 32, model))
    return cases


def read_measured(words: Sequence[str]) -> dict[int, float]:
    """Read ``RANKS:SECONDS`` words, or one CSV file.

    Raises:
        ValueError: names what cannot be read.
    """
    if len(words) == 1 and ":" not in words[0]:
        with open(words[0], newline="", encoding="utf-8") as file:
            rows = [(row.get("ranks"), row.get("seconds")) for row in csv.DictReader(file)]
    else:
        rows = [(ranks, seconds) for ranks, _, seconds in (word.partition(":") for word in words)]
    measured = {}
    for ranks, seconds in rows:
        try:
            number, time = int(ranks or ""), float(seconds or "")
        except ValueError:
            raise ValueError(f"--measured: {ranks}:{seconds} is no RANKS:SECONDS like 8:0.031") from None
        if number < 1 or not 0 < time < math.inf:
            raise ValueError(f"--measured: {ranks}:{seconds}: at least 1 rank and more than 0 seconds")
        measured[number] = time
    return measured


def plot(cases: Sequence[Case], projected: Sequence[int], path: Path) -> None:
    """Draw the efficiency over the number of ranks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        xscale="log",
        xlabel="ranks",
        ylabel="efficiency against the fewest measured",
        title="Projected from few ranks: a model, not measured",
    )
    for case in cases:
        ranks = sorted({*projected, *case.measured})
        line = axes.plot(ranks, [case.model.efficiency(n, case.reference) for n in ranks], label=case.title)[0]
        seen = [case.measured[case.reference] / seconds for seconds in case.measured.values()]
        axes.plot(list(case.measured), seen, "o", color=line.get_color())
    axes.set_xscale("log", base=2)
    ticks = sorted({*projected, *(n for case in cases for n in case.measured)})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.measured:
            measured = read_measured(options.measured)
            known = {
                "latency": None if options.latency is None else options.latency * 1e-6,
                "bandwidth": None if options.bandwidth is None else options.bandwidth * 1e9,
                "overlap": options.overlap,
            }
            model = fit(measured, size=4 * options.parameters, buckets=options.buckets, **known)
            cases = [Case("Fitted to measured steps", "given", measured, options.images, model)]
        else:
            cases = published()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for case in cases:
        print(*case.lines(options.ranks), "", sep="\n")
    if options.plot:
        plot(cases, options.ranks, options.plot)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scaling_model", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--measured", nargs="+", metavar="RANKS:SECONDS", help="seconds of a step, or a CSV file (ranks, seconds)")
    add("--parameters", type=int, default=RESNET50_PARAMETERS, help="of the network (default: ResNet-50's)")
    add("--buckets", type=int, default=RESNET50_BUCKETS, help="messages of a step (default: ResNet-50's)")
    add("--images", type=int, default=32, help="images of each rank (default: %(default)s)")
    add("--latency", type=float, help="µs of a message for each doubling of ranks (default: fitted)")
    add("--bandwidth", type=float, help="GB/s of each rank (default: fitted)")
    add("--overlap", type=float, default=0.0, help="seconds of communication hidden by computing (default: 0)")
    add("--ranks", type=int, nargs="+", default=PROJECTED, help="numbers of ranks to project to")
    add("--plot", type=Path, help="also draw the efficiency into this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
