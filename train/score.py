"""Score the last saved model of a run, alone: ``python -m train.score runs/<name>`` prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from train import device
from train.config import load_run_config
from train.errors import EXIT_USER_ERROR, UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.score",
        description="Score the last saved model of a run on its held-out examples; one process, no training.",
    )
    parser.add_argument("run_dir", type=Path, help="the folder of the run, runs/<name>")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(score(options.run_dir)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def score(run_dir: Path) -> dict[str, float]:
    """Return loss, top1, top5 and the number of examples for the newest saved model below ``run_dir``."""
    config = load_run_config(run_dir)
    device.configure(config.device)
    from train.checkpoint import load_model, newest_model
    from train.run import build_parts

    parts = build_parts(config)
    load_model(parts.model, newest_model(run_dir))
    return parts.score()


if __name__ == "__main__":
    sys.exit(main())
