"""`python -m schedules show|plot|compare`: look at a schedule before training with it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from schedules import __version__, plot, tables
from schedules.errors import one_line
from schedules.options import count
from schedules.source import read

EPILOG = """\
A schedule is a recipe (.yaml), key=value words, or a recipe changed by them:
  python -m schedules show train/recipes/digits_resnet20.yaml --at 5 60
  python -m schedules plot kind=cosine lr_max=0.1 total=100 warmup=3% -o lr.png
  python -m schedules compare train/recipes/digits_resnet20.yaml --with dialect=zoo_resnet
"""


class Parser(argparse.ArgumentParser):
    """One line for one mistake."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.add_argument("--version", action="version", version=__version__)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)}; see {self.prog} --help\n")


def arguments() -> Parser:
    parser = Parser(
        prog="python -m schedules",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="show|plot|compare")
    show = commands.add_parser("show", help="print a table, or write a CSV")
    show.add_argument("--csv", metavar="FILE", help="write every step to FILE instead ('-': standard output)")
    draw = commands.add_parser("plot", help="draw a PNG, phases shaded")
    draw.add_argument("-o", "--output", metavar="FILE", required=True)
    draw.add_argument("--kinds", action="store_true", help="draw one example of every kind instead")
    compare = commands.add_parser("compare", help="say where two schedules part and by how much")
    compare.add_argument(
        "--with", nargs="+", required=True, dest="other", metavar="WORD", help="the second: a recipe, or changes"
    )
    for command in (show, draw, compare):
        command.add_argument("words", nargs="*", metavar="RECIPE|key=value")
        command.add_argument("--at", nargs="+", type=int, default=[], metavar="STEP", help="steps to point out")
        command.add_argument("--steps-per-epoch", type=int, metavar="N", help="what `epochs` refers to")
    return parser


def run(options: argparse.Namespace) -> None:
    if options.command == "plot" and options.kinds:
        plot.save_gallery(plot.may_write(options.output, plot.PNG))
        return
    source = read(options.words)
    schedule = source.build(options.steps_per_epoch)
    if options.command == "plot":
        title = " ".join(options.words)
        plot.save_plot(schedule, plot.may_write(options.output, plot.PNG), title=title, at=options.at)
    elif options.command == "compare":
        other = read(options.other, base=source).build(options.steps_per_epoch)
        print(tables.difference(schedule, other, options.at))
    elif options.csv == "-":
        tables.write_csv(schedule, sys.stdout)
    elif options.csv is not None:
        with open(plot.may_write(options.csv, tables.CSV_HEADER.encode()), "w", encoding="utf-8") as file:
            tables.write_csv(schedule, file)
    else:
        own = source.section.get("steps_per_epoch")
        steps_per_epoch = options.steps_per_epoch or (count("steps_per_epoch", own) if own else None)
        print(tables.summary(schedule), tables.table(schedule, options.at, steps_per_epoch), sep="\n\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on standard error for a mistake of the user's."""
    if sys.stdout is None:  # closed when Python started
        sys.stdout = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115, open as long as the process
    options = arguments().parse_args(argv)
    os.environ.pop("MPLBACKEND", None)  # a notebook's names a module that this environment may lack
    try:
        run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
