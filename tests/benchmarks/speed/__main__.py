"""How fast training is, as ratios measured in turn in the same run. Prints Markdown tables.

    python -m tests.benchmarks.speed                     all of it: about half an hour on two idle cores
    python -m tests.benchmarks.speed loop --rounds 15    parts: loop, ranks, exchange, torch, kernels, startup, shares

A ratio of 0.97 says 97% of the reference's images a second; median and quartiles of the rounds. Nothing else should
run on the machine meanwhile. ``torch`` needs an environment with PyTorch (--torch-python) and
``exchange --delay 0.001`` root and iproute2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from tests.benchmarks.speed import sections
from tests.benchmarks.speed.measure import machine

SECTIONS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "loop": sections.loop,
    "ranks": sections.ranks,
    "exchange": sections.exchange,
    "torch": sections.torch,
    "kernels": sections.kernels,
    "startup": sections.startup,
    "shares": sections.shares,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.speed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--updates", type=int, default=16, help="of each variant in a round, default: %(default)s")
    parser.add_argument("--torch-python", default="python", help="the Python of an environment with PyTorch")
    parser.add_argument("--jobs", type=int, default=3, help="rounds of whole jobs, default: %(default)s")
    parser.add_argument(
        "--delay", nargs="+", type=float, default=[], metavar="S", help="exchange: also between two nodes so far apart"
    )
    parser.add_argument("--csv", help="exchange: also write the seconds of a step by ranks, for scaling_model")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    print(f"{machine()}; `python -m tests.benchmarks.speed {' '.join(sys.argv[1:])}`")
    for name in options.sections or SECTIONS:
        print("", *SECTIONS[name](options), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
