"""``python -m models``: the models of the table, or a reader's own, with their number of trainable parameters."""

from __future__ import annotations

import argparse
import importlib
import inspect
import signal
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from models.variants import ResNetOptions, list_models, resolve

if TYPE_CHECKING:
    from mindspore import nn

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
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of a model, or your own module:function (default: all)"
    )
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
    for name, build, num_classes, described in rows:
        model = build(num_classes=num_classes, in_channels=asked.in_channels)
        if not hasattr(model, "trainable_params"):
            parser.exit(2, f"error: {name!r} must return a Cell, not {type(model).__name__}\n")
        parameters = sum(parameter.size for parameter in model.trainable_params())
        _print_row((name, f"{parameters:,}", str(num_classes), *described))
    return 0


def _request(
    name: str, num_classes: int | None, in_channels: int
) -> tuple[str, Callable[..., nn.Cell], int, tuple[str, str, str]]:
    """The name, what builds the model, its number of classes, and the last three columns."""
    own = ":" in name
    options = resolve("resnet18" if own else name)
    if num_classes is None:
        num_classes = 10 if options.stem == "cifar" else 1000
    resolve("resnet18", num_classes=num_classes, in_channels=in_channels)
    if own:
        return name, _load(name), num_classes, ("-", "-", "-")
    depths = "-".join(map(str, options.depths))
    return name, partial(_build, options), num_classes, (options.block, depths, _differences(options))


def _load(reference: str) -> Callable[..., nn.Cell]:
    """The reader's function ``module:name``; an error inside the module keeps its traceback."""
    module_name, _, name = reference.partition(":")
    if not (module_name and name):
        raise ValueError(f"{reference!r}: write it as package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):  # one that the reader's module imports in vain
            raise
        raise ValueError(f"{reference!r}: no module {error.name!r}; is its folder on PYTHONPATH?") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{reference!r}: {module_name} has no function {name!r}")
    try:
        inspect.signature(function).bind(num_classes=10, in_channels=3)
    except TypeError as error:
        raise ValueError(f"{reference!r}: is called with num_classes and in_channels ({error})") from None
    return function


def _build(options: ResNetOptions, num_classes: int, in_channels: int) -> nn.Cell:
    from models.resnet import ResNet

    return ResNet(options, num_classes=num_classes, in_channels=in_channels)


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
