"""``python -m models``: the models of the table with their number of trainable parameters."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import MISSING, fields
from typing import NoReturn

from models import __version__, create_model
from models.variants import ResNetOptions, list_models, resolve

_HEADER = ("model", "parameters", "classes", "block", "depths", "options")


class Parser(argparse.ArgumentParser):
    """One line for one mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {_one_line(message)}; see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m models",
        description="List models with their number of trainable parameters, as a Markdown table.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a model (default: all)")
    parser.add_argument("--num-classes", type=int, help="default: 10 for the CIFAR family, 1000 for the others")
    parser.add_argument("--in-channels", type=int, default=3, help="channels of the images (default: 3)")
    asked = parser.parse_args(arguments)
    try:
        # All names are checked before the first model is built: importing MindSpore takes seconds.
        rows = [_request(name, asked.num_classes, asked.in_channels) for name in asked.names or list_models()]
    except ValueError as error:
        parser.exit(2, f"error: {_one_line(error)}\n")
    _print_row(_HEADER)
    _print_row(("---", "--:", "--:", "---", "---", "---"))
    for name, num_classes, options in rows:
        model = create_model(name, num_classes=num_classes, in_channels=asked.in_channels)
        parameters = sum(parameter.size for parameter in model.trainable_params())
        depths = "-".join(map(str, options.depths))
        _print_row((name, f"{parameters:,}", str(num_classes), options.block, depths, _differences(options)))
    return 0


def _request(name: str, num_classes: int | None, in_channels: int) -> tuple[str, int, ResNetOptions]:
    """The name, the number of classes and the options of one model, checked."""
    options = resolve(name)
    if num_classes is None:
        num_classes = 10 if options.stem == "cifar" else 1000
    return name, num_classes, resolve(name, num_classes=num_classes, in_channels=in_channels)


def _differences(options: ResNetOptions) -> str:
    """The options, apart from block and depths, that are not the default."""
    values = ((field.name, getattr(options, field.name), field.default) for field in fields(options))
    return ", ".join(f"{name}={value}" for name, value, default in values if default not in (MISSING, value))


def _one_line(text: object) -> str:
    """``text`` without line ends and control characters, which a name may hold, and not endless."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text)[:2000])


def _print_row(cells: tuple[str, ...]) -> None:
    try:
        print(f"| {' | '.join(cells)} |", flush=True)
    except OSError as error:  # a full disk
        sys.exit(f"error: {error.strerror}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" ends the command quietly
    sys.exit(main())
