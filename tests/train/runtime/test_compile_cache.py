"""MindSpore's cache of compiled graphs, which takes the first graph of a process for the first one it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.runs import metrics, run
from tests.jobs import alone, train_task
from train.runtime import device


def weights(folder: Path, name: str, *settings: str) -> bytes:
    alone(train_task(folder, name, *settings), folder).check()
    return (folder / name / "checkpoints" / "latest" / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", "")


def test_only_an_update_keeps_its_graphs_and_each_configuration_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.configure("cpu")
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ, "scoring would take the graphs of whatever ran here before"
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path))
    first, second = (device.place_of_graphs(tmp_path / "other", {"decay": decay}, wanted=False) for decay in (0.1, 0.2))
    assert first != second and first is not None and second is not None and first.parent == second.parent == tmp_path
    with device.kept_graphs(first):
        assert os.environ["MS_COMPILER_CACHE_ENABLE"] == "1" and os.environ["MS_COMPILER_CACHE_PATH"] == str(first)
    assert os.environ["MS_COMPILER_CACHE_ENABLE"] == "0", "they are told by their order alone"


@pytest.mark.parametrize(
    ("own", "restarts", "wanted", "kept"),
    [(None, False, False, False), (None, False, True, True), (None, True, False, True), ("0", True, True, False)],
    ids=["a run", "a resumed one", "one that may start again", "turned off"],
)
def test_graphs_are_kept_where_they_will_be_wanted_again(
    own: str | None, restarts: bool, wanted: bool, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MS_COMPILER_CACHE_ENABLE", own), ("LAUNCH_RESTARTS", "3" if restarts else None)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "_asked_to_keep", {})
    device.configure("cpu")
    assert (device.place_of_graphs(Path("graphs"), {}, wanted=wanted) is not None) == kept


@pytest.mark.slow
def test_a_changed_constant_and_another_order_are_compiled_anew(tmp_path: Path) -> None:
    first = weights(tmp_path, "first")
    assert weights(tmp_path, "second", "optimizer.weight_decay=0.1") != first
    assert weights(tmp_path, "first", "resume=auto") == first, "complete, so its first graph is the evaluation's"
    kept = sorted(path.name for path in (tmp_path / ".compiled-graphs").glob("*/rank_0/graph_cache/*.mindir"))
    assert kept == ["compile_cache_0.mindir"] * 2, "of the update alone, and apart"


OWN_MODEL = """
from mindspore import nn
import models
from helper import FACTOR

class Scaled(nn.Cell):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def construct(self, images):
        return self.inner(images) * FACTOR

def create(**options):
    return Scaled(models.create_model("resnet20", depths=[1, 1, 1], **options))
"""


def test_a_constant_of_ones_own_module_is_compiled_anew(tmp_path: Path) -> None:
    """In a module that the model's imports: MindSpore looks at none of them."""
    own = ["model.name=own:create", "model.options={}", "snapshots.layers=[]", "snapshots.steps=[]"]
    (tmp_path / "own.py").write_text(OWN_MODEL)
    found = []
    for name, factor in (("first", 1.0), ("changed", 0.5)):
        (tmp_path / "helper.py").write_text(f"FACTOR = {factor}")
        found.append(weights(tmp_path, name, *own))
    assert found[0] != found[1]
    assert len(list((tmp_path / ".compiled-graphs").iterdir())) == 2


def test_graphs_are_kept_whatever_has_started_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore would read the script and what it imports, in the locale's encoding; here is no script."""
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    code = "import sys; from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
    alone(["-c", code, *train_task(tmp_path, "run")[2:]], tmp_path).check()
    assert len(list((tmp_path / ".compiled-graphs").glob("*/rank_0/graph_cache/*.mindir"))) == 1


@pytest.mark.slow
@pytest.mark.msrun
def test_ranks_keep_their_graphs_apart(tmp_path: Path) -> None:
    """A rank's number is a constant in its graph; the rank whose gradient is not finite is told by it."""
    for name in ("compiled", "kept"):
        done = run(tmp_path, name, ranks=2, faults="poison:3:0,poison:5:1").check()
        for update, rank in ((3, 0), (5, 1)):
            assert f"not finite in update {update} on rank {rank}, " in done.logs[0], name
    assert metrics(tmp_path / "compiled") == metrics(tmp_path / "kept")
    (folder,) = (tmp_path / ".compiled-graphs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["rank_0", "rank_1"], "MindSpore's own"
