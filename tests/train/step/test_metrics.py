"""metrics.jsonl: what was written comes back, and its age costs neither memory nor time."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from train.rundir.metrics import SPEED, MetricsWriter, logged_layers, points_since, read_metrics
from train.runtime.errors import UserError


def write(folder: Path, *lines: str) -> Path:
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def log(folder: Path, steps: range) -> None:
    writer = MetricsWriter(folder, keep_bytes=0)
    for step in steps:
        writer.write(step, {"a": step / 3, "some/other": 1.0, "perf/unread": 1.0})
    writer.close()


def test_floats_come_back_exactly_and_not_finite_ones_too(tmp_path: Path) -> None:
    values = [0.1, 1e-45, -2.5e300, float("nan"), float("inf"), float("-inf")]
    writer = MetricsWriter(tmp_path, keep_bytes=0)
    for step, value in enumerate(values):
        writer.write(step, {"a": value, 'odd, "tag": ü': value} if step % 2 else {'odd, "tag": ü': value, "a": value})
    writer.close()
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
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


DAMAGED = ["[1]", "", "{}", '{"loss": 1.0}', '{"step": 1, "a": }', '{"step": 1, "a": 0.1, ', '{"step": x, "a": 1}']
DAMAGED += [
    '{"step": -1, "a": 1}',
    f'{{"step": {10**30}, "a": 1}}',
    '{"step": 1, "a": [1]}',
    "[" * 100_000,
    "\0\x1b[2J",
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:20])
def test_a_line_that_is_none_is_left_out_and_told(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be mended, and the run may still go on."""
    write(tmp_path, '{"step": 0, "a": 1.0}', line, '{"step": 2, "a": 3.0}', "")
    assert read_metrics(tmp_path, ["a"]).curve("a")[1].tolist() == [1.0, 3.0]
    said = capsys.readouterr().err
    assert "metrics.jsonl: 1 damaged lines are left out" in said and said.count("\n") == 1 and len(said) < 500
    assert points_since(tmp_path, 0) == [(0, {"a": 1.0}), (2, {"a": 3.0})]
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


@pytest.mark.parametrize("behind", [b"", b'{"step": 9, "a', b'{"step": 9, "a": 1.0}\n{"st'])
def test_a_resumed_run_cuts_off_what_was_logged_after_its_checkpoint(tmp_path: Path, behind: bytes) -> None:
    log(tmp_path, range(5))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + behind)
    writer = MetricsWriter(tmp_path, keep_bytes=len(whole))
    assert writer.length == len(whole)
    writer.write(5, {"a": 1.5})
    writer.close()
    assert path.read_bytes() == whole + b'{"step": 5, "a": 1.5}\n'
    # what the checkpoint counted had not all reached the disk: the torn line goes too
    path.write_bytes(whole[:-3])
    MetricsWriter(tmp_path, keep_bytes=len(whole)).close()
    assert path.read_bytes() == whole[: whole[:-3].rfind(b"\n") + 1]


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path, '{"step": 0, "a": 1.0}', "") / "metrics.jsonl"
    os.truncate(path, 10**8)  # a hole, of zeros
    tracemalloc.start()
    assert read_metrics(tmp_path, ["a"]).last("a") == 1.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


def test_opening_an_old_file_reads_only_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with open(path, "wb") as file:
        file.truncate(10**9)  # a hole: takes no room on the disk
        file.seek(0, 2)
        file.write(b'\n{"step": 8, "a": 1.0}\n{"torn')
    tracemalloc.start()
    writer = MetricsWriter(tmp_path, keep_bytes=path.stat().st_size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert writer.length == 10**9 + len(b'\n{"step": 8, "a": 1.0}\n') and peak < 10**6
    writer.close()


def test_the_points_logged_last(tmp_path: Path) -> None:
    write(
        tmp_path, '{"step": 0, "a": 1.0}', '{"step": 1, "a": 1.0}', '{"step": 2, "a": "nan"}', '{"step": 2, "b": 2}', ""
    )
    (first, second) = points_since(tmp_path, 2)
    assert first[0] == 2 and np.isnan(first[1]["a"]) and second == (2, {"b": 2.0})
    assert [step for step, _ in points_since(tmp_path, 0)] == [0, 1, 2, 2] and points_since(tmp_path, 3) == []
