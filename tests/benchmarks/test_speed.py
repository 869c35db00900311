"""The benchmark of speed calls its variants in turn, and its ratios are ratios of speed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.speed.loop import BARE, OURS, measure_loop
from tests.benchmarks.speed.measure import run_job, table, take_turns
from tests.jobs import ROOT


def test_variants_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def variant(name: str) -> Callable[[], float]:
        return lambda: order.append(name) or float(len(order))  # type: ignore[func-returns-value]

    figures = take_turns({"a": variant("a"), "b": variant("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    np.testing.assert_array_equal(figures["a"], [3, 5])
    np.testing.assert_array_equal(figures["b"], [4, 6])


def test_twice_the_seconds_is_half_the_speed() -> None:
    reference = np.array([1.0, 2.0, 3.0])
    _, _, first, second = table("what", {"bare": reference, "ours": 2 * reference}, "bare")
    assert first == "| bare | 2000.0 | **1.000** | 1.000–1.000 |"
    assert second == "| ours | 4000.0 | **0.500** | 0.500–0.500 |"


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named 'nowhere'"):
        run_job(0, ["-c", "import nowhere"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("loops", "unknown section loops; there are loop, reading, layers"),
        ("loop --rounds 0", "argument --rounds: '0' must be a whole number of at least 1"),
        ("exchange --delay -1", "argument --delay: '-1' must be a number of seconds from 0 to 10"),
        ("exchange --csv nowhere/steps.csv", "--csv nowhere/steps.csv: there is no folder nowhere"),
        ("torch --torch-python no-python", "--torch-python no-python: no such command"),
        ("exchange --delay 0.001", "--delay 0.001 needs root, iproute2 and /dev/net/tun (ip netns add "),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_starts_nothing(arguments: str, message: str, tmp_path: Path) -> None:
    """Without ``ip`` on PATH, as for a user without the right to call it."""
    command = [sys.executable, "-m", "tests.benchmarks.speed", *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.msrun
def test_both_loops_are_measured() -> None:
    small = ["data.image_size=8", "data.global_batch=8", "model.options={depths: [1, 1, 1]}"]
    figures = measure_loop(2, 1, [*small, "snapshots.layers=[fc.weight]"])
    assert {name: len(values) for name, values in figures.items()} == {BARE: 1, OURS: 1}
