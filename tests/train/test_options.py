"""Mistakes in the options of each command."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from train import __main__ as training
from train import compare_runs, score
from train.comparison import __main__ as comparison
from train.data import convert
from train.preflight import __main__ as preflight

COMMANDS = {
    "train": training.main,
    "train.comparison": comparison.main,
    "train.compare_runs": compare_runs.main,
    "train.score": score.main,
    "train.data.convert": convert.main,
    "train.preflight": preflight.main,
}


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_a_mistake_is_one_line_and_exit_code_2(
    name: str, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["runs/trial", "--config", "recipe.yaml", "--no-such-option"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ") and err.endswith(f"--no-such-option; see python -m {name} --help\n")
