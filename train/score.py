"""Score the last saved model of a run, alone: ``python -m train.score runs/<name>`` prints one line of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from train import device
from train.errors import OneLineParser, run_command
from train.rundir.folder import load_run_config


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.score",
        description="Score the last saved model of a run on its validation examples; one process, no training.",
    )
    parser.add_argument("run_dir", type=Path, help="the folder of the run, runs/<name>")
    parser.add_argument("--ema", action="store_true", help="score the moving average of weights that step.ema keeps")
    options = parser.parse_args(arguments)
    print(json.dumps(score(options.run_dir, averaged=options.ema)))
    return 0


def score(run_dir: Path, *, averaged: bool = False) -> dict[str, float]:
    """Return loss, top1, top5 and the number of examples for the newest saved model below ``run_dir``.

    Args:
        averaged: score the moving average of its weights instead.
    """
    config = load_run_config(run_dir)
    device.configure(**config.device.model_dump())
    from train.checkpoint import load_model, newest_model
    from train.run import build_parts

    parts = build_parts(config)
    load_model(parts.model, newest_model(run_dir, averaged=averaged))
    return parts.score()


if __name__ == "__main__":
    sys.exit(main())
