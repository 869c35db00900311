"""Whose fault a failed update is. The other rank is a process with a real watchdog, which lives or is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from tests.jobs import ROOT, environment
from train.hooks.watchdog import Watchdog
from train.rundir.folder import HEARTBEATS, of_rank
from train.runtime import distributed
from train.runtime.errors import HungError

TIMEOUT = 16.0
OTHER = f"""
import sys, time
from pathlib import Path
from types import SimpleNamespace

from train.runtime import distributed
from train.hooks.watchdog import Watchdog

distributed._world = (1, 2)
run = SimpleNamespace(step=6, run_dir=Path(sys.argv[1]))
watchdog = Watchdog({TIMEOUT})
with watchdog.watching():
    watchdog.on_train_begin(run)
    watchdog.on_train_step_begin(run)
    while True:
        time.sleep({TIMEOUT} / 4)
        watchdog.on_train_step_begin(run)
        if (run.run_dir / "fail").exists():
            raise RuntimeError("its own")
"""

Other = Literal["lives", "killed", "fails"]
Fail = Callable[[BaseException, Other], None]


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let rank 0 raise an error in update 6, after rank 1 is killed or told to fail there itself, if it is to."""
    monkeypatch.setattr(distributed, "_world", (0, 2))
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], env=environment(), cwd=ROOT)

    def raise_in_update(error: BaseException, becomes: Other) -> None:
        run: Any = SimpleNamespace(step=6, run_dir=tmp_path)
        watchdog = Watchdog(TIMEOUT)
        with watchdog.watching():
            watchdog.on_train_begin(run)
            while not (tmp_path / HEARTBEATS / of_rank(1)).exists():
                assert other.poll() is None
                time.sleep(0.02)
            if becomes == "killed":
                other.kill()
                other.wait()
            if becomes == "fails":
                (tmp_path / "fail").touch()
            watchdog.on_train_step_begin(run)
            raise error

    yield raise_in_update
    other.kill()
    other.wait()


@pytest.mark.parametrize("words", ["synchronize stream failed, runtime result = 507048", "never heard of"])
def test_the_words_do_not_matter_where_another_rank_is_gone(
    words: str, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = r"other ranks did not answer in update 6; no sign of life of rank 1 for \d+ s$"
    with pytest.raises(HungError, match=missed):
        fail(RuntimeError(words), "killed")
    assert f"RuntimeError: {words}" in capsys.readouterr().err, "it may be a fault of this rank all the same"


def test_a_fault_of_this_rank_stays_one_where_all_others_live(fail: Fail) -> None:
    with pytest.raises(RuntimeError, match="never heard of"):
        fail(RuntimeError("never heard of"), "lives")


def test_a_fault_on_all_ranks_is_nobodys_silence(fail: Fail) -> None:
    with pytest.raises(RuntimeError, match="never heard of"):
        fail(RuntimeError("never heard of"), "fails")


def test_a_heartbeat_that_lay_there_leads_nowhere(tmp_path: Path) -> None:
    own = tmp_path / HEARTBEATS / of_rank(0)
    own.parent.mkdir(parents=True)
    (tmp_path / "outside").write_text("somebody's own")
    os.utime(tmp_path / "outside", (1, 1))
    own.symlink_to(tmp_path / "outside")
    run: Any = SimpleNamespace(step=6, run_dir=tmp_path)
    watchdog = Watchdog(TIMEOUT)
    watchdog.on_train_begin(run)
    watchdog._beat()
    assert not own.is_symlink() and (tmp_path / "outside").stat().st_mtime == 1


def test_an_error_that_is_not_the_runtimes_is_a_fault_of_this_rank(fail: Fail) -> None:
    with pytest.raises(KeyError, match="my own"):
        fail(KeyError("my own"), "killed")


@pytest.mark.parametrize(
    "words",
    [
        "EI0002: [PID: 7] The wait execution of the Notify register times out.",
        "HcclAllReduce failed\nEI0006: Getting socket times out.",
        "Launch kernel failed, name: Default/AllReduce-op0",
    ],
)
def test_known_words_suffice(words: str, fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HungError, match="other ranks did not answer in update 6; one of them is gone or hangs"):
        fail(RuntimeError(words), "lives")
    assert "Traceback" not in capsys.readouterr().err
