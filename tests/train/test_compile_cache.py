"""MindSpore's cache of compiled graphs, which takes the first graph of a process for the first one it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import alone, train_task


def weights(folder: Path, name: str, *settings: str) -> bytes:
    alone(train_task(folder, name, *settings), folder).check()
    return (folder / name / "checkpoints" / "latest" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_changed_constant_and_another_order_are_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.delenv("MS_COMPILER_CACHE_PATH", raising=False)
    first = weights(tmp_path, "first")
    assert weights(tmp_path, "second", "optimizer.weight_decay=0.1") != first
    assert weights(tmp_path, "first", "resume=auto") == first, "complete, so its first graph is the evaluation's"
    assert len(list((tmp_path / ".compiled-graphs").glob("*/rank_0/graph_cache"))) == 3, "kept, and apart"
