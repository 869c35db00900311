"""Which cores the ranks of a job get, alone on the machine, beside another job, and in a container."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs import environment
from train.runtime.cores import quota

CORES = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
# Says where it may run before its threads are made, and after.
RANK = """
import os, sys
from train.runtime import cores, device
cores.NAME = sys.argv[1]
device.set_environment_defaults("cpu")
before = sorted(os.sched_getaffinity(0))
cores.spread()
print(before, sorted(os.sched_getaffinity(0)), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def rank(mark: Path, number: int, **variables: str) -> Iterator[list[list[int]]]:
    """Start a rank as the launcher and msrun do; yield its cores before and after, while it lives."""
    told = {**environment(), "DEVICE_ID": str(number), **variables}
    command = [
        sys.executable,
        "-c",
        RANK,
        f"{os.getpid()}-{mark.name[:40]}-{{}}",
    ]  # apart from the jobs that train here meanwhile
    with subprocess.Popen(command, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before, after = process.stdout.readline().strip().split("] [")
        yield [[int(core) for core in text.strip("[]").split(",")] for text in (before, after)]
        process.kill()


@needs_two
def test_each_rank_has_cores_of_its_own(tmp_path: Path) -> None:
    part = len(CORES) // 2
    with rank(tmp_path, 0, LAUNCH_RANKS="2") as first, rank(tmp_path, 1, LAUNCH_RANKS="2") as second:
        assert first == [CORES[:part]] * 2
        assert second == [CORES[part : 2 * part]] * 2


@needs_two
def test_a_second_job_is_not_bound_to_the_cores_of_the_first_and_sees_as_many(tmp_path: Path) -> None:
    part, variables = len(CORES) // 2, {"LAUNCH_RANKS": "2"}
    with rank(tmp_path, 0, **variables), rank(tmp_path, 1, **variables), rank(tmp_path, 0, **variables) as beside:
        assert (len(beside[0]), beside[1]) == (part, CORES)
    with rank(tmp_path, 0, **variables) as after:
        assert after == [CORES[:part]] * 2, "what a process had is free when it has ended"


@pytest.mark.parametrize(
    "variables",
    [{}, {"LAUNCH_RANKS": "1"}, {"LAUNCH_RANKS": str(len(CORES) + 1)}, {"LAUNCH_RANKS": "2", "MS_ROLE": "MS_SCHED"}],
    ids=["no launcher", "one rank", "more ranks than cores", "the scheduler"],
)
def test_others_are_left_alone(variables: dict[str, str], tmp_path: Path) -> None:
    with rank(tmp_path, 0, **variables) as found:
        assert found == [CORES] * 2


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, 4),
        ("0::/kubepods/pod1\n", {"cpu.max": "150000 50000"}, 3),
        ("4:memory:/\n3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("3:cpu,cpuacct:/x\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_the_quota_of_a_container(own: str, files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, content in {"own": own, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n" if content != own else own)
    assert quota(tmp_path, tmp_path / "own") == cores


@needs_two
def test_a_quota_counts_and_binds_to_no_core(tmp_path: Path) -> None:
    """In a real control group, which only root can make."""
    group = Path(
        "/sys/fs/cgroup/cpu" if Path("/sys/fs/cgroup/cpu").is_dir() else "/sys/fs/cgroup", f"test-{os.getpid()}"
    )
    version1 = group.parent.name == "cpu"
    try:
        group.mkdir()
        (group / ("cpu.cfs_quota_us" if version1 else "cpu.max")).write_text("100000" if version1 else "100000 100000")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        with rank(tmp_path, 0) as found:
            assert (len(found[0]), found[1]) == (1, CORES)
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
