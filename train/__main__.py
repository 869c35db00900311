"""The command that msrun starts: ``msrun … python -m train --config RECIPE [key=value …]``; alone, a world of one."""

from __future__ import annotations

import argparse
import os
import sys
import time

from train import device, distributed
from train.config import RunConfig, describe_keys, load_config, to_yaml
from train.errors import EXIT_USER_ERROR, Stopped, UserError
from train.hooks.snapshots import FOLDER as SNAPSHOTS


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        config = load_config(options.config, options.override)
    except UserError as error:
        # All ranks read the same configuration, so one says it for all.
        if os.environ.get("RANK_ID", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    if options.print_config:
        print(to_yaml(config), end="")
        return 0
    device.configure(config.device)
    distributed.init()
    try:
        return run(config)
    except Stopped as stop:
        if distributed.rank() == 0:
            print(f"stopped by {stop}", flush=True)
        return stop.exit_code
    except UserError as error:
        print(f"error: rank {distributed.rank()}: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def run(config: RunConfig) -> int:
    from train.run import run_training

    started = time.monotonic()
    figures = run_training(config)
    if distributed.rank() != 0:
        return 0
    print(
        f"held-out top1 {figures['top1']:.2%} of {figures['examples']} images, loss {figures['loss']:.4f}, "
        f"{time.monotonic() - started:.0f} s; everything is in {config.run_dir}",
        flush=True,
    )
    if not any((config.run_dir / SNAPSHOTS).glob("*.npz")):
        return 0  # none wanted, or all of them were before the checkpoint of another run that this one started from
    from train.comparison import compare
    from train.hooks.tensorboard import write_comparison

    report = compare(config.run_dir)
    write_comparison(config.run_dir, report.data["total_steps"], report.text, sorted(report.folder.glob("*.png")))
    verdict = "every update is W_start − lr·v on every rank" if report.ok else "NOT every update is W_start − lr·v"
    print(f"{verdict}: {report.folder / 'comparison.md'}", flush=True)
    for problem in report.problems:
        print(f"error: {problem}", file=sys.stderr, flush=True)
    return 0 if report.ok else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Train a model as a recipe says, on as many ranks as msrun starts (alone: one).",
        epilog="keys (override with key=value):\n" + "\n".join(describe_keys()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, e.g. from train/recipes/")
    parser.add_argument(
        "--print-config", action="store_true", help="check the configuration, print it resolved, and stop"
    )
    parser.add_argument("override", nargs="*", metavar="key=value", help="override a key of the recipe, e.g. seed=2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
