"""Where an exported model goes, and what of a saved model is refused; on a checkpoint whose weights are fresh."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.train.mind_ir_pb2 import ModelProto
from safetensors.numpy import load_file, save

from tests.faults.checkpoints import put_files
from tests.jobs import Tool
from train import export
from train.checkpoint import disk
from train.checkpoint.card import CARD_FILE, METADATA_KEY, InputCard, ModelCard
from train.checkpoint.saved import find_model
from train.checkpoint.state import AVERAGE_FILE, MODEL_FILE
from train.recipe.sections import InitFrom
from train.run.opening import load_initial_weights
from train.run.task import make_model
from train.run.trained import open_model
from train.rundir.folder import CHECKPOINTS
from train.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("on_cpu")

predict = Tool("train.predict")

CARD = ModelCard(
    name="resnet20",
    options={"depths": [1, 1, 1]},
    num_classes=3,
    channels=1,
    class_names=[],
    image_size=8,
    eval_resize=0,
    orientation="apply",
    background="white",
    max_pixels=100,
    mean=[0.5],
    std=[0.5],
    precision="fp32",
    batch_norm="fp32",
    inputs=[InputCard(name="", shape=[1, 8, 8], dtype="uint8")],
    gives="classes",
    versions={},
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with a model in it, in the folder of a run."""
    model = make_model(CARD.name, CARD.options, num_classes=CARD.num_classes, in_channels=CARD.channels)
    weights = {name: np.ascontiguousarray(value.asnumpy()) for name, value in model.parameters_dict().items()}
    files = {
        MODEL_FILE: save(weights, {METADATA_KEY: CARD.to_json()}),
        CARD_FILE: CARD.to_json().encode() + b"\n",
    }
    (tmp_path / "run").mkdir()
    return put_files(tmp_path / "run" / CHECKPOINTS, 10, files)


@pytest.mark.parametrize("to", ["mindir", "safetensors-torch"])
def test_the_model_of_a_checkpoint_is_exported_beside_the_checkpoints(checkpoint: Path, to: str) -> None:
    out = export.export(checkpoint / MODEL_FILE, to)
    assert out == checkpoint.parents[1] / "exports" / f"model{export.SUFFIXES[to]}" and out.is_file()
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted([MODEL_FILE, CARD_FILE, disk.SUMS_FILE])
    assert disk.is_whole(checkpoint)


def test_a_lone_checkpoint_is_left_alone_too(checkpoint: Path, tmp_path: Path) -> None:
    lone = checkpoint.rename(tmp_path / "downloaded")
    assert export.export(lone / MODEL_FILE, "mindir") == tmp_path / "exports" / "model.mindir"
    assert disk.is_whole(lone)


@pytest.mark.parametrize("place", ["step-00000010/a.mindir", "a.mindir", "new/a.mindir"])
def test_nothing_is_written_below_checkpoints(checkpoint: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(checkpoint.parent.rglob("*"))
    arguments = [str(checkpoint.parents[1]), "--to", "mindir", "--out", str(checkpoint.parent / place)]
    assert export.main(arguments) == 2
    assert f"{place}: would change a checkpoint" in capsys.readouterr().err
    assert sorted(checkpoint.parent.rglob("*")) == before


def test_only_an_export_is_replaced(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(checkpoint.parents[1])
    for name in ("config.yaml", "lock", "notes.json", "mine.mindir", "with.json", "out.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "link.mindir").symlink_to(tmp_path / "notes.json")
    os.mkfifo(tmp_path / "pipe.mindir")
    for name in ("config.yaml", "lock", "mine.mindir", "with.mindir", "link.mindir", "pipe.mindir", "/dev/null"):
        before = {path.name for path in tmp_path.iterdir()}
        assert export.main([run, "--to", "mindir", "--out", str(tmp_path / name)]) == 2
        assert f"--out={tmp_path / name}" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == before
    assert export.main([run, "--to", "safetensors-torch", "--out", str(tmp_path / "out.safetensors")]) == 2
    assert {(tmp_path / name).read_text() for name in before - {"run", "pipe.mindir"}} == {"mine"}
    before_umask = os.umask(0o027)
    try:
        (tmp_path / "folder").mkdir()
        for _ in range(2):  # an export may be written again
            for to in ("mindir", "safetensors-torch"):
                assert export.main([run, "--to", to, "--out", str(tmp_path / "folder")]) == 0
    finally:
        os.umask(before_umask)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "folder").iterdir()}
    assert found == dict.fromkeys(("model.mindir", "model.json", "model.torch.safetensors"), 0o640)


def _constant_parameter(model: Any) -> Any:
    return next(one for one in model.graph.parameter if one.dims)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(_constant_parameter(m), "raw_data", b"1234"), "holds 4 bytes for"),
        (lambda m: _constant_parameter(m).dims.__setitem__(0, 10**9), "bytes for"),
        (
            lambda m: _constant_parameter(m).external_data.CopyFrom(
                type(_constant_parameter(m).external_data)(location="x")
            ),
            "in another file",
        ),
        (
            lambda m: setattr(_constant_parameter(m), "raw_data", b"\xff" * len(_constant_parameter(m).raw_data)),
            "NaN or infinity",
        ),
        (lambda m: m.graph.ClearField("node"), "holds no graph"),
        (lambda m: setattr(m, "doc_string", "x" * (17 << 20)), "bytes beside the weights are more than"),
    ],
    ids=["short", "long", "elsewhere", "NaN", "empty", "bomb"],
)
def test_a_graph_whose_tensors_are_not_whole_is_refused(
    change: Any, words: str, checkpoint: Path, tmp_path: Path
) -> None:
    """MindSpore reads past their ends, or takes what the memory held."""
    out = export.export(checkpoint / MODEL_FILE, "mindir", out=tmp_path / "a.mindir")
    predict.open_predictor(out)
    model = ModelProto.FromString(out.read_bytes())
    change(model)
    out.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"a\.mindir: not a readable MindIR file .*{words}"):
        predict.open_predictor(out)


class Tied(nn.Cell):
    """Multiplies float32 by a weight of its own, as with an embedding's table; level O2 makes float16 of the one."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.table = ms.Parameter(ops.ones((classes, 64)))

    def construct(self, images):
        return ops.matmul(images.reshape(images.shape[0], -1), self.table.T)


def tied(*, num_classes: int, in_channels: int) -> nn.Cell:
    return Tied(num_classes)


@pytest.mark.parametrize("name, precision", [("resnet20", "fp16"), ("resnet20", "fp32"), (f"{__name__}:tied", "fp16")])
def test_onnx_runtime_takes_a_model_in_either_precision(
    name: str, precision: str, checkpoint: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    own = name != CARD.name
    card = CARD.model_copy(update={"precision": precision, "batch_norm": "mixed"})
    weights = load_file(checkpoint / MODEL_FILE)
    if own:
        card = card.model_copy(update={"name": name, "options": {}})
        weights = {key: value.asnumpy() for key, value in tied(num_classes=3, in_channels=1).parameters_dict().items()}
    (tmp_path / "half").mkdir()
    path = tmp_path / "half" / "model.safetensors"
    path.write_bytes(save(weights, {METADATA_KEY: card.to_json()}))
    out = export.export(path, "onnx", trust_code=own)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8), np.uint8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    _, network = open_model(path, trust_code=own)
    np.testing.assert_allclose(logits, network(ms.Tensor(images)).asnumpy(), atol=2e-2 if precision == "fp16" else 1e-4)


@pytest.mark.parametrize("place", ["run", "run/checkpoints/latest"])
def test_a_run_starts_from_the_weights_in_a_folder(
    place: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint.parent / "latest").symlink_to(checkpoint.name)
    model = make_model(CARD.name, CARD.options, num_classes=CARD.num_classes, in_channels=CARD.channels)
    load_initial_weights(model, InitFrom(path=str(tmp_path / place)), CARD)
    assert f"initial weights from {checkpoint / MODEL_FILE}\n" in capsys.readouterr().out
    for name, value in load_file(checkpoint / MODEL_FILE).items():
        np.testing.assert_array_equal(model.parameters_dict()[name].asnumpy(), value)


@pytest.mark.parametrize("to", ["mindir", "safetensors-torch"])
def test_a_full_disk_is_one_line_and_code_5(checkpoint: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of a file stands for the disk: writing stops in the same place, with an error of its own."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        code = export.main([str(checkpoint.parents[1]), "--to", to])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    err = capsys.readouterr().err
    assert code == 5 and "cannot be written" in err and "File too large" in err and err.count("\n") == 1
    assert list((checkpoint.parents[1] / "exports").iterdir()) == []


def test_the_average_of_a_file_is_the_one_beside_it(checkpoint: Path, tmp_path: Path) -> None:
    model, average = checkpoint / MODEL_FILE, checkpoint / AVERAGE_FILE
    with pytest.raises(UserError, match=r"model\.safetensors: --ema needs the folder of a run"):
        find_model(model, averaged=True)
    shutil.copy(model, average)
    assert find_model(model, averaged=True) == find_model(average, averaged=True) == average
    assert find_model(average) == average and find_model(model) == model
    other = shutil.copy(model, checkpoint / "other.safetensors")
    with pytest.raises(UserError, match="--ema needs"):
        find_model(other, averaged=True)
    exported = export.export(model, "mindir", out=tmp_path / "a.mindir")
    with pytest.raises(UserError, match="an export holds one"):
        predict.open_predictor(exported, averaged=True)


class Harmful(nn.Cell):
    """Asks for a library, which could do anything as soon as it is loaded."""

    def __init__(self, library: Path) -> None:
        super().__init__()
        same = {"out_shape": lambda x: x, "out_dtype": lambda x: x}
        self.custom = ops.Custom(f"{library}:Evil", **same, func_type="aot")
        self.fc = nn.Dense(64, 10)

    def construct(self, images):
        return self.custom(self.fc(images.astype(ms.float32).reshape((1, 64))))


def test_an_exported_model_loads_no_library_unless_its_code_is_trusted(tmp_path: Path) -> None:
    out = tmp_path / "model.mindir"
    images = ms.Tensor(np.zeros((1, 1, 8, 8), np.uint8))
    (tmp_path / "evil.so").touch()  # it is never loaded
    ms.export(Harmful(tmp_path / "evil.so"), images, file_name=str(out), file_format="MINDIR")
    out.with_suffix(".json").write_text(CARD.to_json())
    with pytest.raises(UserError, match=r"model\.mindir: its operator 'Custom' runs code .*--trust-code"):
        predict.open_predictor(out)
    predict.open_predictor(out, trust_code=True)
