"""MindSpore's cache of compiled graphs, which does not notice a changed constant, stays off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import alone, train_task
from train.runtime import device

NOTE = "note: MS_COMPILER_CACHE_ENABLE"


def test_the_cache_stays_off_and_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a module of the user's loads MindSpore before the device is set."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(cache))
    (tmp_path / "own.py").write_text("import mindspore\n")
    done = alone(train_task(tmp_path, "run", "imports=[own]"), tmp_path).check()
    assert done.logs[0].count(NOTE) == 1
    assert not cache.exists()


@pytest.mark.parametrize(
    ("variables", "says"), [({"RANK_ID": "0"}, 1), ({"RANK_ID": "1"}, 0), ({"MS_ROLE": "MS_SCHED"}, 0)]
)
def test_of_several_ranks_the_first_says_so(
    variables: dict[str, str], says: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device.cores, "take_part", lambda: None)
    for name, value in {"MS_COMPILER_CACHE_ENABLE": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    device.set_environment_defaults("cpu")
    assert capsys.readouterr().err.count(NOTE) == says
