"""MindSpore's cache of compiled graphs, which does not notice a changed constant, stays off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import msrun, train_task


@pytest.mark.msrun
def test_the_cache_stays_off_and_rank_0_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a module of the reader's loads MindSpore before the device is set."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(cache))
    (tmp_path / "own.py").write_text("import mindspore\n")
    done = msrun(2, train_task(tmp_path, "run", "imports=[own]"), tmp_path).check()
    assert [log.count("note: MS_COMPILER_CACHE_ENABLE") for log in done.logs] == [1, 0]
    assert "note:" not in (tmp_path / "scheduler.log").read_text()
    assert not cache.exists()
