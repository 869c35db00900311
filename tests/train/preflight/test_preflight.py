"""The checks before a training: alone, on two ranks, and where something is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.jobs import DIGITS, ROOT, alone, environment, msrun
from train.preflight import machine
from train.preflight.findings import Finding, failures, table
from train.runtime import device
from train.runtime.errors import EXIT_HUNG, UserError

PREFLIGHT = ["-m", "train.preflight"]
ALL_CHECKS = [
    "python",
    "packages",
    "device",
    "ranks",
    "all-reduce",
    "all-gather",
    "broadcast",
    "data",
    "disk",
    "update",
]


def results(log: str) -> dict[str, str]:
    """Return the table's second column by its first."""
    lines = log[log.index("check ") :].splitlines()[1:]
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) > 1 and words[1] in ("ok", "FAILED")}


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error: ")]


def test_a_world_of_one(tmp_path: Path) -> None:
    done = alone([*PREFLIGHT, "--config", DIGITS], tmp_path).check()
    assert results(done.logs[0]) == dict.fromkeys(ALL_CHECKS, "ok")
    assert "1437 + 360 images of 10 classes" in done.logs[0]
    assert list(tmp_path.iterdir()) == []


def test_without_a_recipe(tmp_path: Path) -> None:
    done = alone(PREFLIGHT, tmp_path).check()
    assert list(results(done.logs[0])) == [check for check in ALL_CHECKS if check not in ("data", "update")]


def test_no_device_is_used_before_the_ranks_have_joined(tmp_path: Path) -> None:
    """On Ascend all ranks have device 0 until then."""
    task = tmp_path / "task.py"
    task.write_text(
        "import runpy\nfrom train.runtime import distributed\n"
        "def init():\n    import mindspore\n    print('used:', mindspore.hal.is_initialized('CPU'))\n"
        "distributed.init = init\nrunpy.run_module('train.preflight', run_name='__main__')\n"
    )
    done = alone([task], tmp_path).check()
    assert done.logs[0].startswith("used: False\n")
    assert results(done.logs[0])["device"] == "ok"


def test_missing_data_and_a_full_disk(tmp_path: Path) -> None:
    """Both are told: the checks go on after a failure."""
    settings = ["--free-gib", "1e9", "data.source=image_folder", f"data.root={tmp_path / 'nowhere'}"]
    done = alone([*PREFLIGHT, "--config", DIGITS, *settings], tmp_path)
    assert done.code == 2
    assert [check for check, result in results(done.logs[0]).items() if result == "FAILED"] == ["data", "disk"]
    data, disk = errors(done.logs[0])
    assert data.startswith(
        f"error: rank 0: data: data.root={tmp_path / 'nowhere'}: no such folder; expected: ROOT/train/"
    )
    assert re.search(r"disk: .* GiB free, less than 1e\+09: make room", disk)


@pytest.mark.parametrize(
    ("package", "found", "words"),
    [
        ("numpy", "2.1.0", "numpy 2.1.0 is not at least 1.25 and below 2; install the versions in launch/requirements"),
        ("mindspore", "2.9.1", "mindspore 2.9.1 is not at least 2.10.0 and below 2.11"),
    ],
)
def test_a_wrong_version(tmp_path: Path, package: str, found: str, words: str) -> None:
    """Told before MindSpore is imported, with which it might crash."""
    metadata = tmp_path / f"{package}-{found}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {found}\n")
    (tmp_path / "mindspore.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [sys.executable, *PREFLIGHT],
        env={**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert results(done.stdout) == {"python": "ok", "packages": "FAILED"}
    assert done.stderr.startswith(f"error: rank 0: packages: {words}") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("package", ["opencv-python-headless", "pillow", "pydantic", "safetensors"])
def test_a_missing_package(package: str, tmp_path: Path) -> None:
    """Also one that the reading of a recipe imports: a line and no traceback."""
    site = Path(np.__file__).parents[1]
    gone = {line.split("/")[0] for line in map(str, metadata.files(package) or []) if not line.startswith("..")}
    for path in site.iterdir():
        if path.name not in gone and path.suffix != ".pth":
            (tmp_path / path.name).symlink_to(path)
    done = subprocess.run(
        [sys.executable, "-S", *PREFLIGHT, "--config", str(DIGITS)],
        env={**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    words = f"error: rank 0: packages: {package} is not installed; install launch/requirements.txt\n"
    assert done.stderr == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere.yaml"], "error: --config nowhere.yaml: no such file"),
        (["--config", DIGITS, "sed=2"], "error: .*unknown key sed"),
        (["seed=2"], ".*seed=2 is a setting over a recipe's: give --config"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str | Path], words: str) -> None:
    done = alone([*PREFLIGHT, *arguments], tmp_path)
    assert done.code == 2
    assert re.search(words, done.logs[0].splitlines()[-1])


def fake_disk(**changed: int) -> SimpleNamespace:
    return SimpleNamespace(**{"f_frsize": 4096, "f_bavail": 10 << 18, "f_files": 1000, "f_favail": 10, **changed})


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs_dir = str(tmp_path / "not" / "yet" / "made")
    monkeypatch.setattr(os, "statvfs", lambda folder: fake_disk())
    assert machine.disk(runs_dir, 10) == f"10.0 GiB free in {tmp_path}"
    with pytest.raises(UserError, match=rf"{tmp_path} has 10\.0 GiB free, less than 10\.5: make room"):
        machine.disk(runs_dir, 10.5)
    monkeypatch.setattr(os, "statvfs", lambda folder: fake_disk(f_favail=0))
    with pytest.raises(UserError, match="no free inodes"):
        machine.disk(runs_dir, 10)
    with pytest.raises(UserError, match=r"cannot write to /proc: .*runs_dir="):
        machine.disk("/proc/runs", 0)
    assert list(tmp_path.iterdir()) == []


def test_the_table_shows_the_worst_of_all_ranks() -> None:
    good, bad, other = Finding("disk", True, "9 GiB"), Finding("disk", False, "full"), Finding("disk", False, "gone")
    python = Finding("python", True, "3.11")
    assert table([[python, good], [python, bad], [python, good]]) == [
        "check   result  found",
        "python  ok      3.11",
        "disk    FAILED  on rank 1, see below",
    ]
    assert table([[bad], [other]])[1] == "disk   FAILED  on all ranks, see below"
    assert failures([[bad], [other], [bad]]) == ["rank 0, 2: disk: full", "rank 1: disk: gone"]
    assert failures([[python, bad]], [5]) == ["rank 5: disk: full"]


def test_wrong_values_and_ranks_that_differ() -> None:
    from train.preflight import exchanges

    wanted = np.arange(6, dtype=np.float32)
    exchanges._compare(wanted.copy(), wanted)
    wrong = wanted.copy()
    wrong[3:5] = 7
    with pytest.raises(UserError, match=r"2 of 6 values are wrong, the first is 7\.0 instead of 3\.0"):
        exchanges._compare(wrong, wanted)
    here, there = {"host": "a", "versions": "1", "data": None}, {"host": "b", "versions": "1", "data": None}
    assert exchanges.describe_world([here, there, here]) == "3 on 2 machines, same versions, recipe and data"
    exchanges.describe_world([here, {**there, "data": "3"}])
    with pytest.raises(UserError, match=r"rank 1 \(b\) has versions 2, rank 0 \(a\) has 1: make them the same"):
        exchanges.describe_world([here, {**there, "versions": "2"}])


def test_a_rank_that_does_not_answer() -> None:
    task = "import time\nfrom train.preflight.__main__ import time_limit\nwith time_limit(0.2, 'all-reduce'):\n"
    done = subprocess.run(
        [sys.executable, "-c", task + "    time.sleep(600)"],
        env={**environment(), "RANK_ID": "3"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == EXIT_HUNG
    assert done.stderr.startswith("error: rank 3: no answer from the other ranks in 0.2 s (all-reduce): ")


@pytest.mark.msrun
def test_one_of_two_ranks_fails(tmp_path: Path) -> None:
    """Rank 1 does not have the data. Both end with 2, and rank 0 says what is wrong where."""
    task = tmp_path / "task.py"
    task.write_text(
        "import os, runpy\nos.chdir(os.environ['RANK_ID'])\nrunpy.run_module('train.preflight', run_name='__main__')\n"
    )
    classes = [tmp_path / "0" / "data" / part / name for part in ("train", "val") for name in ("cat", "dog")]
    from PIL import Image

    for folder in classes:
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "image.png")
    (tmp_path / "1").mkdir()
    settings = ["data.source=image_folder", "data.root=data", "device=cpu"]
    done = msrun(2, [task, "--config", DIGITS, *settings], tmp_path)
    assert done.code != 0
    assert [check for check, result in results(done.logs[0]).items() if result == "FAILED"] == ["data"]
    (data,) = errors(done.logs[0])
    assert data.startswith("error: rank 1: data: data.root=data: no such folder; expected: ")
    assert errors(done.logs[1]) == [data]
    assert results(done.logs[0])["all-reduce"] == "ok"


@pytest.mark.msrun
def test_two_ranks_with_the_script(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / "preflight.sh"), "--ranks", "2", "--config", str(DIGITS)],
        cwd=tmp_path,
        env={**environment(), "ACTIVE_ENVIRONMENT": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert results(done.stdout) == dict.fromkeys(ALL_CHECKS, "ok")
    assert "2 on one machine, same versions, recipe and data" in done.stdout
    assert "exact sums of 8 MiB" in done.stdout
    found = re.search(
        r"update +ok +64 images a rank: the first (\S+) s \(it compiles\), the second (\d+) ms", done.stdout
    )
    assert found and 1000 * float(found[1]) > float(found[2]) > 0
    assert list(tmp_path.iterdir()) == []  # the logs are gone, too


def test_an_update_that_fails_is_one_line(tmp_path: Path) -> None:
    """What a model of the reader's own does wrong shows when its update is compiled."""
    (tmp_path / "odd_model.py").write_text(
        "from mindspore import nn\n"
        "class Odd(nn.Cell):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Dense(7, 10)\n"
        "    def construct(self, images):\n        return self.fc(images)\n"
        "def build(num_classes, in_channels):\n    return Odd()\n"
    )
    settings = ["model.name=odd_model:build", "model.options={}", "snapshots.layers=[fc.weight]"]
    done = alone([*PREFLIGHT, "--config", DIGITS, *settings], tmp_path)
    assert done.code == 2 and "Traceback (most recent call last)" not in done.logs[0]  # of Python
    assert results(done.logs[0])["update"] == "FAILED"
    (update,) = errors(done.logs[0])
    assert update.startswith("error: rank 0: update: failed (ValueError: For 'MatMul'"), update


def test_packages_of_cann_that_miss_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come with CANN, what they import does not."""
    device.require_cann_packages("cpu")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hccl.py").touch()
    with pytest.raises(UserError, match=r"CANN's Python package te cannot be imported \(No module named 'te'\);"):
        device.require_cann_packages("ascend")
    (tmp_path / "te.py").write_text("import package_of_others")
    with pytest.raises(UserError, match=r"te cannot be imported .*'package_of_others'"):
        device.require_cann_packages("ascend")
    monkeypatch.setitem(sys.modules, "package_of_others", sys)
    device.require_cann_packages("ascend")
    for name in device.CANN_PACKAGES:
        monkeypatch.delitem(sys.modules, name)


def test_the_guide_to_ascend_names_what_the_lock_lacks() -> None:
    """Of the packages in CANN's installation guide."""
    cann = ["attrs", "cython", "numpy", "decorator", "sympy", "cffi", "pyyaml", "pathlib2", "psutil", "protobuf"]
    cann += ["scipy", "requests", "absl-py"]
    lock = (ROOT / "launch" / "requirements.txt").read_text().lower()
    missing = [name for name in cann if f"\n{name}==" not in f"\n{lock}"]
    assert f"`.venv/bin/pip install {' '.join(missing)}`" in (ROOT / "launch" / "ASCEND.md").read_text()
