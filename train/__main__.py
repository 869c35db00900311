"""The command that msrun starts: ``msrun … python -m train --config RECIPE [key=value …]``; alone, a single process."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from statistics import harmonic_mean
from typing import NoReturn

from train.recipe.read import load_config, to_yaml
from train.recipe.sections import RunConfig, describe_keys
from train.rundir.folder import SNAPSHOTS
from train.runtime import device, distributed
from train.runtime.console import PATIENCE_SECONDS, print_error
from train.runtime.ending import end_with
from train.runtime.errors import (
    EXIT_COMPARISON,
    OneLineParser,
    Stopped,
    StorageError,
    describe_exit_codes,
    is_of_storage,
    run_command,
)

HELP = """\
Train a model as a recipe says, on as many ranks as msrun starts (alone: one).

examples:
  msrun --worker_num=2 --local_worker_num=2 --join=True \\
      python -m train --config train/recipes/digits_resnet20.yaml
  python -m train --config train/recipes/digits_resnet20.yaml name=slow schedule.lr_max=0.05 "data.augment=[flip]"
  python -m train --config train/recipes/digits_resnet20.yaml --print-config

A run leaves everything in runs/<name>/. Afterwards, each with its own --help:
  tensorboard --logdir runs --host 127.0.0.1     the curves
  python -m train.comparison runs/<name>         what the learning rate did to the weights, once more
  python -m train.compare_runs runs/a runs/b     runs side by side
  python -m train.score runs/<name>              the saved model's score
  python -m train.predict runs/<name> IMAGE      which class the saved model sees on an image
  python -m train.export runs/<name> --to onnx   the saved model for others: mindir, onnx, safetensors-torch"""


def program() -> NoReturn:
    end_with(main)


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(parse(arguments)), distributed.own_name, PATIENCE_SECONDS)


def command(options: argparse.Namespace) -> int:
    # A module of a user's may print while it is imported: that is no part of the configuration.
    with redirect_stdout(sys.stderr) if options.print_config else nullcontext():
        config = load_config(options.config, options.override)
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    try:
        device.configure(**config.device.model_dump())
        device.require_cann_packages(config.device.target)
        distributed.init()
        return run(config)
    except Stopped as stop:
        if distributed.rank() == 0:
            print(f"stopped by {stop}", flush=True)
        return stop.exit_code
    except SystemExit as left:  # called in code of a user's: the other ranks are not done
        raise RuntimeError(f"SystemExit({left.code!r}) in the middle of a training") from left
    except OSError as error:
        if not is_of_storage(error, config.run_dir):
            raise
        raise StorageError(f"{error.filename or config.run_dir}: {error.strerror}") from None


def run(config: RunConfig) -> int:
    from train.run.job import run_training

    started = time.monotonic()
    figures = run_training(config)
    if distributed.rank() != 0:
        return 0
    print(closing_words(config, figures, time.monotonic() - started), flush=True)
    if not any((config.run_dir / SNAPSHOTS).glob("*.npz")):
        return 0  # none wanted, or all of them were before the checkpoint of another run that this one started from
    return compare_updates(config)


def closing_words(config: RunConfig, figures: Mapping[str, float], seconds: float) -> str:
    """Say how good the model is, how long it took, how fast that was and where the files are."""
    from train.hooks.progress import SENTENCES, figure_words
    from train.rundir.metrics import SPEED, points

    say = SENTENCES[config.log.language]
    speeds = [scalars[SPEED] for _, scalars in points(config.run_dir) if SPEED in scalars]
    return say["end"].format(
        figures=figure_words(figures),
        examples=figures["examples"],
        seconds=seconds,
        speed=say["speed"].format(speed=harmonic_mean(speeds)) if speeds else "",
        run_dir=config.run_dir,
    )


def compare_updates(config: RunConfig) -> int:
    """Write the comparison of the recorded updates, show it in TensorBoard too and return the exit code.

    This is the one place where training asks for one of its tools; where that is not there, nothing is compared.
    """
    try:
        from train.comparison.report import compare
    except ModuleNotFoundError as error:
        if error.name not in ("train.comparison", "train.comparison.report"):
            raise
        return 0
    from train.hooks.progress import SENTENCES
    from train.hooks.tensorboard import write_comparison

    run_dir, say = config.run_dir, SENTENCES[config.log.language]
    report = compare(run_dir, trust_code=True)  # this very process trained with it
    write_comparison(run_dir, report.data["total_steps"], report.text, report.pictures)
    rule = "W_start − lr·v" if report.data["kind"]["direction"] == "v" else say["own rule"]
    verdict = say["proved" if report.ok else "not proved"]
    print(verdict.format(rule=rule, report=report.folder / "comparison.md"), flush=True)
    for problem in report.problems:
        print_error(problem)
    return 0 if report.ok else EXIT_COMPARISON


def parse(arguments: list[str] | None) -> argparse.Namespace:
    spoken = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    keys = "\n".join(describe_keys(spoken))
    parser = OneLineParser(
        prog="python -m train",
        usage="python -m train --config RECIPE [--print-config] [key=value ...]",
        description=HELP,
        epilog=f"keys of a recipe, with their defaults:\n{keys}\n\nexit codes:\n{describe_exit_codes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, e.g. from train/recipes/")
    parser.add_argument(
        "--print-config", action="store_true", help="check the configuration, print it resolved, and stop"
    )
    parser.add_argument("override", nargs="*", metavar="key=value", help="a key of the recipe and its new value")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    program()
