"""How fast training is, as ratios measured in turn in the same run. Prints Markdown tables.

    python -m tests.benchmarks.speed                     all of it: over half an hour on two idle cores
    python -m tests.benchmarks.speed loop --rounds 15    parts of it, see --help

A ratio of 0.97 says 97% of the reference's images a second; median and quartiles of the rounds. Nothing else should
run on the machine meanwhile. ``torch`` needs an environment with PyTorch (--torch-python) and
``exchange --delay 0.001`` root and iproute2.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.speed import sections
from tests.benchmarks.speed.measure import machine
from tests.machines import Refused, two_machines
from train.runtime.errors import OneLineParser

SECTIONS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "loop": sections.loop,
    "reading": sections.reading,
    "layers": sections.layers,
    "ranks": sections.ranks,
    "exchange": sections.exchange,
    "torch": sections.torch,
    "kernels": sections.kernels,
    "startup": sections.startup,
    "shares": sections.shares,
}


def main() -> int:
    options = parse()
    print(f"{machine()}; `python -m tests.benchmarks.speed {' '.join(sys.argv[1:])}`")
    for name in options.sections:
        print("", *SECTIONS[name](options), sep="\n", flush=True)
    return 0


def parse() -> argparse.Namespace:
    """Read the command line; what would go wrong after half an hour is refused here."""
    parser = OneLineParser(
        prog="python -m tests.benchmarks.speed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--rounds", type=count, default=9, help="default: %(default)s")
    parser.add_argument("--updates", type=count, default=16, help="of each variant in a round, default: %(default)s")
    parser.add_argument("--torch-python", default="python", help="the Python of an environment with PyTorch")
    parser.add_argument("--jobs", type=count, default=3, help="rounds of whole jobs, default: %(default)s")
    parser.add_argument(
        "--delay",
        nargs="+",
        type=seconds,
        default=[],
        metavar="S",
        help="exchange: also between two nodes so far apart",
    )
    parser.add_argument("--csv", help="exchange: also write the seconds of a step by ranks, for scaling_model")
    options = parser.parse_args()
    options.sections = options.sections or list(SECTIONS)
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if "torch" in options.sections and shutil.which(options.torch_python) is None:
        parser.error(f"--torch-python {options.torch_python}: no such command")
    if options.csv and not Path(options.csv).parent.is_dir():
        parser.error(f"--csv {options.csv}: there is no folder {Path(options.csv).parent}")
    for delay in options.delay:
        try:
            with two_machines(delay):
                pass
        except Refused as error:
            parser.error(f"--delay {delay:g} needs root, iproute2 and /dev/net/tun ({error})")
    return options


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds from 0 to 10")
    return value


if __name__ == "__main__":
    sys.exit(main())
