"""Which cores the ranks of a job get, on a machine and in a container."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import environment
from train.runtime.cores import quota

CORES = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
RANK = """
import os
from train.runtime import device
for _ in range(2):
    device.set_environment_defaults("cpu")
    print(*sorted(os.sched_getaffinity(0)))
"""


def rank(number: int, **variables: str) -> list[int]:
    """Start a rank as the launcher and msrun do; return its cores."""
    told = {**environment(), "DEVICE_ID": str(number), **variables}
    said = subprocess.run([sys.executable, "-c", RANK], env=told, stdout=subprocess.PIPE, text=True, check=True).stdout
    first, second = said.splitlines()
    assert first == second, "the second call found something to do"
    return [int(core) for core in first.split()]


@needs_two
def test_each_rank_has_cores_of_its_own() -> None:
    part = len(CORES) // 2
    assert rank(0, LAUNCH_RANKS="2") == CORES[:part]
    assert rank(1, LAUNCH_RANKS="2") == CORES[part : 2 * part]


@pytest.mark.parametrize(
    "variables",
    [{}, {"LAUNCH_RANKS": "1"}, {"LAUNCH_RANKS": str(len(CORES) + 1)}, {"LAUNCH_RANKS": "2", "MS_ROLE": "MS_SCHED"}],
    ids=["no launcher", "one rank", "more ranks than cores", "the scheduler"],
)
def test_others_are_left_alone(variables: dict[str, str]) -> None:
    assert rank(0, **variables) == CORES


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
def test_a_quota_counts() -> None:
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
        assert len(rank(0)) == 1
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
