"""metrics.jsonl: what was written comes back, and its age costs neither memory nor time to whoever goes on with it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from train.rundir.metrics import MetricsWriter, points


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
        writer.write(step, {'odd, "tag": ü': value})
    writer.close()
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    steps, found = zip(*points(tmp_path), strict=True)
    assert steps == (0, 1, 2, 3, 4, 5)
    np.testing.assert_array_equal([scalars['odd, "tag": ü'] for scalars in found], values)


DAMAGED = ["[1]", "", "{}", '{"loss": 1.0}', '{"step": 1, "a": }', '{"step": 1, "a": 0.1, ', '{"step": x, "a": 1}']
DAMAGED += [
    '{"step": -1, "a": 1}',
    f'{{"step": {10**30}, "a": 1}}',
    '{"step": 1, "a": [1]}',
    "[" * 100_000,
    "\0\x1b[2J",
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:20])
def test_a_line_that_is_none_is_left_out(tmp_path: Path, line: str) -> None:
    write(tmp_path, '{"step": 0, "a": 1.0}', line, '{"step": 2, "a": 3.0}', "")
    assert list(points(tmp_path)) == [(0, {"a": 1.0}), (2, {"a": 3.0})]


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
    (first, second) = points(tmp_path, 2)
    assert first[0] == 2 and np.isnan(first[1]["a"]) and second == (2, {"b": 2.0})
    assert [step for step, _ in points(tmp_path)] == [0, 1, 2, 2] and not list(points(tmp_path, 3))
