"""``python -m models``: the models of the table with their number of trainable parameters."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import MISSING, fields

from models.variants import ResNetOptions, list_models, resolve

_HEADER = ("model", "parameters", "classes", "block", "depths", "options")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models",
        description="List models with their number of trainable parameters, as a Markdown table.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to list (default: all)")
    parser.add_argument("--num-classes", type=int, help="default: 10 for the CIFAR family, 1000 for the others")
    parser.add_argument("--in-channels", type=int, default=3, help="channels of the images (default: 3)")
    asked = parser.parse_args(arguments)
    try:
        rows = [_request(name, asked.num_classes, asked.in_channels) for name in asked.names or list_models()]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    _print_row(_HEADER)
    _print_row(("---", "--:", "--:", "---", "---", "---"))
    for name, options, classes in rows:
        parameters = f"{_count_parameters(options, classes, asked.in_channels):,}"
        depths = "-".join(map(str, options.depths))
        _print_row((name, parameters, str(classes), options.block, depths, _differences(options)))
    return 0


def _request(name: str, num_classes: int | None, in_channels: int) -> tuple[str, ResNetOptions, int]:
    options = resolve(name)
    if num_classes is None:
        num_classes = 10 if options.stem == "cifar" else 1000
    return name, resolve(name, num_classes=num_classes, in_channels=in_channels), num_classes


def _differences(options: ResNetOptions) -> str:
    """The options, apart from block and depths, that are not the default."""
    values = ((field.name, getattr(options, field.name), field.default) for field in fields(options))
    return ", ".join(f"{name}={value}" for name, value, default in values if default not in (MISSING, value))


def _count_parameters(options: ResNetOptions, num_classes: int, in_channels: int) -> int:
    from models.resnet import ResNet  # after the names are checked: importing MindSpore takes seconds

    model = ResNet(options, num_classes=num_classes, in_channels=in_channels)
    return sum(parameter.size for parameter in model.trainable_params())


def _print_row(cells: tuple[str, ...]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" ends the command quietly
    sys.exit(main())
