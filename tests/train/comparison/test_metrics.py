"""The scalars of a run read as curves, however long and damaged the file is."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.train.step.test_metrics import DAMAGED, log, write
from train.comparison.metrics import logged_layers, read_metrics
from train.rundir.metrics import SPEED, MetricsWriter
from train.runtime.errors import UserError


def test_curves_hold_what_was_written(tmp_path: Path) -> None:
    values = [0.1, 1e-45, -2.5e300, float("nan"), float("inf"), float("-inf")]
    writer = MetricsWriter(tmp_path, keep_bytes=0)
    for step, value in enumerate(values):
        writer.write(step, {"a": value, 'odd, "tag": ü': value} if step % 2 else {'odd, "tag": ü': value, "a": value})
    writer.close()
    read = read_metrics(tmp_path, ["a", 'odd, "tag": ü', "never"])
    for tag in ("a", 'odd, "tag": ü'):
        steps, found = read.curve(tag)
        assert steps.tolist() == list(range(6))
        np.testing.assert_array_equal(found, values)
    assert len(read.curve("never")[0]) == 0 and read.last("never") is None


def test_of_a_point_logged_twice_the_last_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    lines = [{"step": 0, "a": 0.1}, {"step": 1, "a": 0.2}, {"step": 0, "a": 0.3}, {"step": 2, "b": 0.4}]
    write(tmp_path, *map(json.dumps, lines), '{"step": 4, "a": 0.')
    steps, values = read_metrics(tmp_path, ["a"]).curve("a")
    assert (steps.tolist(), values.tolist()) == ([0, 1], [0.3, 0.2])


def test_speed_is_the_harmonic_mean(tmp_path: Path) -> None:
    assert read_metrics(tmp_path, [SPEED]).examples_per_sec() is None
    write(tmp_path, f'{{"step": 0, "{SPEED}": 100.0}}', f'{{"step": 1, "{SPEED}": 300.0}}', "")
    assert read_metrics(tmp_path, [SPEED]).examples_per_sec() == pytest.approx(150)


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:20])
def test_a_line_that_is_none_is_left_out_and_told(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be mended, and the run may still go on."""
    write(tmp_path, '{"step": 0, "a": 1.0}', line, '{"step": 2, "a": 3.0}', "")
    assert read_metrics(tmp_path, ["a"]).curve("a")[1].tolist() == [1.0, 3.0]
    said = capsys.readouterr().err
    assert "metrics.jsonl: 1 damaged lines are left out" in said and said.count("\n") == 1 and len(said) < 500
    with pytest.raises(UserError, match=r"metrics\.jsonl: not a run's metrics"):
        read_metrics(write(tmp_path, line, ""), ["a"])
    assert logged_layers(tmp_path) == []


def test_a_thinned_curve_is_even_and_keeps_its_ends(tmp_path: Path) -> None:
    log(tmp_path, range(1001))
    steps, values = read_metrics(tmp_path, ["a"], most_points=20).curve("a")
    assert 20 <= len(steps) <= 40
    assert (steps[0], steps[-1]) == (0, 1000) and values.tolist() == [step / 3 for step in steps.tolist()]
    assert len(set(np.diff(steps)[:-1].tolist())) == 1


def test_reading_holds_no_more_than_its_points(tmp_path: Path) -> None:
    log(tmp_path, range(20_000))  # 0.9 MB
    tracemalloc.start()
    read_metrics(tmp_path, ["some/other"], most_points=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 16 * 20_000


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path, '{"step": 0, "a": 1.0}', "") / "metrics.jsonl"
    os.truncate(path, 10**8)  # a hole, of zeros
    tracemalloc.start()
    assert read_metrics(tmp_path, ["a"]).last("a") == 1.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7
