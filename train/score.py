"""Score the last saved model of a run, alone: ``python -m train.score runs/<name>`` prints one line of JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from train.rundir.trust import TRUST_CODE_HELP, load_config_to_run
from train.runtime import device
from train.runtime.errors import DivergedError, OneLineParser, a_path, run_command


def main(arguments: list[str] | None = None) -> int:
    return run_command(lambda: command(arguments))


def command(arguments: list[str] | None) -> int:
    parser = OneLineParser(
        prog="python -m train.score",
        description="Score the last saved model of a run on its validation examples; one process, no training.",
    )
    parser.add_argument("run_dir", type=a_path, help="the folder of the run, runs/<name>")
    parser.add_argument("override", nargs="*", metavar="key=value", help="a key of its recipe, e.g. data.root=…")
    parser.add_argument("--ema", action="store_true", help="score the moving average of weights that step.ema keeps")
    parser.add_argument("--best", action="store_true", help="score the best of the saved states, not the last")
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE_HELP)
    options = parser.parse_intermixed_args(arguments)
    figures = score(
        options.run_dir, options.override, averaged=options.ema, best=options.best, trust_code=options.trust_code
    )
    print(json.dumps(figures))
    return 0


def score(
    run_dir: Path,
    overrides: Iterable[str] = (),
    *,
    averaged: bool = False,
    best: bool = False,
    trust_code: bool = False,
) -> dict[str, float]:
    """Return loss, top1, top5 and the number of examples for the newest saved model below ``run_dir``.

    Args:
        overrides: ``key=value`` for keys of its recipe, e.g. another ``data.root``.
        averaged: score the moving average of its weights instead.
        best: score the best of its saved states instead.
        trust_code: import the modules that the stored configuration names as its model or its data.

    Raises:
        UserError: also where the data have other classes than the model, or in another order.
        DivergedError: when a figure is not finite.
    """
    config = load_config_to_run(run_dir, overrides, trust_code=trust_code)
    device.configure(**config.device.model_dump())
    from train.checkpoint.card import read_card
    from train.checkpoint.saved import find_model, load_model
    from train.run.task import open_task

    path = find_model(run_dir, averaged=averaged, best=best)
    task = open_task(config)
    if card := read_card(path):
        card.refuse_other_classes(task.card.class_names, str(path), "score it on data that has its classes")
    load_model(task.model, path)
    figures = task.score()
    if bad := [name for name, figure in figures.items() if not math.isfinite(figure)]:
        raise DivergedError(f"{path}: the model gives nothing finite on these examples: {bad[0]} is {figures[bad[0]]}")
    return figures


if __name__ == "__main__":
    sys.exit(main())
