"""MindSpore's cache of compiled graphs, which takes the first graph of a process for the first one it holds."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from tests.faults.runs import metrics, run
from tests.jobs import alone, train_task
from train.runtime import device, graphs


def weights(folder: Path, name: str, *settings: str) -> bytes:
    alone(train_task(folder, name, *settings), folder).check()
    return (folder / name / "checkpoints" / "latest" / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "graphs"))


def kept(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in folder.glob("*.graphs"))


def test_only_the_first_update_keeps_its_graphs_and_each_configuration_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.configure("cpu")
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ, "scoring would take the graphs of whatever ran here before"
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path))
    first, second = (graphs.place_of_graphs({"decay": decay}) for decay in (0.1, 0.2))
    assert first != second and first is not None and second is not None and first.parent == second.parent == tmp_path
    update = graphs.with_kept_graphs(lambda: os.environ["MS_COMPILER_CACHE_ENABLE"], first)
    assert [update(), update()] == ["1", "0"], "they are told by their order alone"
    assert os.environ["MS_COMPILER_CACHE_ENABLE"] == "0" and kept(tmp_path) == ["rank-0.graphs"]


@pytest.mark.parametrize("asked", [None, "0", "1"])
def test_graphs_are_kept_where_the_user_says_so(
    asked: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MS_COMPILER_CACHE_PATH")
    monkeypatch.delenv("MS_COMPILER_CACHE_ENABLE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if asked is not None:
        monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", asked)
    monkeypatch.setattr(graphs, "_asked", {})
    device.configure("cpu")
    place = graphs.place_of_graphs({})
    assert (place is not None) == (asked == "1")
    assert place is None or (place.parent.parent, place.parent.stat().st_mode & 0o777) == (tmp_path, 0o700)


@pytest.mark.parametrize("mode", [0o770, 0o757])
def test_graphs_are_not_kept_where_others_can_write(
    mode: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device.configure("cpu")
    (tmp_path / "of").mkdir()
    (tmp_path / "of").chmod(mode)
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "of" / "mine"))
    assert graphs.place_of_graphs({}) is None
    assert f"not kept: {tmp_path}/of: other users can write there" in capsys.readouterr().out
    (tmp_path / "of").chmod(0o755)
    assert graphs.place_of_graphs({})
    if os.geteuid() == 0:
        os.chown(tmp_path / "of", 1234, -1)
        assert graphs.place_of_graphs({}) is None


def test_what_is_not_exactly_as_it_was_written_is_never_seen_by_mindspore(tmp_path: Path) -> None:
    """A primitive in it may load a library; one changed bit was another weight decay."""
    place = tmp_path / "digest"
    seen = []

    def compile() -> None:
        folder = Path(os.environ["MS_COMPILER_CACHE_PATH"])
        seen.append(sorted(path.name for path in folder.rglob("*.mindir")))
        (folder / "rank_0").mkdir(exist_ok=True)
        (folder / "rank_0" / "compile_cache_0.mindir").write_bytes(b"graph" * 100)

    def first_update() -> list[str]:
        graphs.with_kept_graphs(compile, place)()
        assert [path.suffix for path in tmp_path.iterdir()] == [".graphs"]
        return seen[-1]

    assert first_update() == []
    assert first_update() == ["compile_cache_0.mindir"]
    (file,) = tmp_path.glob("*.graphs")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        file.write_bytes(damaged)
        assert first_update() == [], "compiled anew"
        assert first_update() == ["compile_cache_0.mindir"], "and kept again"


@pytest.mark.slow
def test_a_changed_constant_and_another_order_are_compiled_anew(tmp_path: Path) -> None:
    first = weights(tmp_path, "first")
    assert weights(tmp_path, "second", "optimizer.weight_decay=0.1") != first
    assert weights(tmp_path, "first", "resume=auto") == first, "complete, so its first graph is the evaluation's"
    assert kept(tmp_path / "graphs") == ["rank-0.graphs"] * 2, "of the update alone, and apart"


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
    assert len(kept(tmp_path / "graphs")) == 2


def test_graphs_are_kept_whatever_has_started_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore would read the script and what it imports, in the locale's encoding; here is no script."""
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    code = "import sys; from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
    alone(["-c", code, *train_task(tmp_path, "run")[2:]], tmp_path).check()
    (file,) = (tmp_path / "graphs").iterdir()
    written = file.stat().st_mtime_ns
    with zipfile.ZipFile(io.BytesIO(file.read_bytes()[32:])) as packed:
        assert [Path(name).name for name in packed.namelist() if name.endswith(".mindir")] == ["compile_cache_0.mindir"]
    alone(["-c", code, *train_task(tmp_path, "again")[2:]], tmp_path).check()
    assert file.stat().st_mtime_ns == written, "the second run took it"
    one, other = ((tmp_path / name / "checkpoints/latest/model.safetensors").read_bytes() for name in ("run", "again"))
    assert one == other


@pytest.mark.slow
@pytest.mark.msrun
def test_ranks_keep_their_graphs_apart(tmp_path: Path) -> None:
    """A rank's number is a constant in its graph; the rank whose gradient is not finite is told by it."""
    for name in ("compiled", "kept"):
        done = run(tmp_path, name, ranks=2, faults="poison:3:0,poison:5:1").check()
        for update, rank in ((3, 0), (5, 1)):
            assert f"not finite in update {update} on rank {rank}, " in done.logs[0], name
    assert metrics(tmp_path / "compiled") == metrics(tmp_path / "kept")
    assert kept(tmp_path / "graphs") == ["rank-0.graphs", "rank-1.graphs"]
