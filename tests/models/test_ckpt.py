"""MindSpore's .ckpt: read as written, and what its own reader would believe is refused."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train.checkpoint_pb2 import Checkpoint

from models.weights import load_weights
from tests.models.tiny import assert_equal, tiny, values
from train.step.update_rules import Momentum

pytestmark = pytest.mark.usefixtures("on_cpu")


def _momentum(model: nn.Cell) -> nn.Optimizer:
    return Momentum(model.trainable_params(), Tensor(np.linspace(0.1, 0, 5), ms.float32), 0.9)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_checkpoint_of_mindspore_is_read_whatever_its_name(tmp_path, name):
    """With what its callbacks save of the optimizer and of the training beside the weights."""
    source = tiny(1)
    network = nn.TrainOneStepCell(nn.WithLossCell(source, nn.CrossEntropyLoss()), _momentum(source))
    progress = {"epoch_num": 3, "step_num": 90, "note": "text"}
    ms.save_checkpoint(network, str(tmp_path / "saved.ckpt"), append_dict=progress)
    (tmp_path / "saved.ckpt").rename(tmp_path / name)
    model = tiny(2)
    told: list[str] = []
    assert load_weights(model, tmp_path / name, tell=told.append) == [] and told == []
    assert_equal(values(model), values(source))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_checkpoint_in_bfloat16(tmp_path):
    source = tiny(1)
    halved = [
        {"name": name, "data": Tensor(value, ms.bfloat16 if name == "fc.weight" else ms.float32)}
        for name, value in values(source).items()
    ]
    ms.save_checkpoint(halved, str(tmp_path / "model.ckpt"))
    model = tiny(2)
    assert load_weights(model, tmp_path / "model.ckpt") == []
    np.testing.assert_allclose(model.fc.weight.asnumpy(), source.fc.weight.asnumpy(), rtol=2**-8)


def _ckpt(path, change) -> None:
    """Save a checkpoint of which ``change`` has changed what is stored of ``fc.weight``, float32 (5, 16)."""
    ms.save_checkpoint(tiny(1), str(path))
    stored = Checkpoint.FromString(path.read_bytes())
    change(next(value.tensor for value in stored.value if value.tag == "fc.weight"))
    path.write_bytes(stored.SerializeToString())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: setattr(t, "tensor_content", t.tensor_content + b"more"), r"holds 324 bytes for Float32 \[5, 16\]"),
        (lambda t: setattr(t, "tensor_content", t.tensor_content[:-4]), "holds 316 bytes"),
        (lambda t: t.dims.__setitem__(0, -1), "holds 320 bytes"),
        (lambda t: (t.ClearField("dims"), t.dims.append(0)), r"holds 320 bytes for Float32 \[0\]"),
        (lambda t: t.dims.extend([10**9, 10**9, 10**9]), "holds 320 bytes"),
        (lambda t: setattr(t, "tensor_type", "Int4"), "has the type 'Int4', which is not read"),
        (lambda t: setattr(t, "tensor_type", "Int32"), "of another kind: fc.weight int32"),
    ],
    ids=["longer", "shorter", "negative", "scalar", "huge", "Int4", "Int32"],
)
def test_a_tensor_that_its_dimensions_belie_is_refused(tmp_path, change, message):
    """MindSpore's own reader compares nothing: it aborts, or leaves part of a weight as the memory was."""
    _ckpt(tmp_path / "model.ckpt", change)
    model = tiny(2)
    before = values(model)
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path / "model.ckpt")
    assert_equal(values(model), before)


@pytest.mark.parametrize("checksum", [True, False])
def test_a_tensor_in_parts_and_a_checksum_are_read(tmp_path, checksum):
    """MindSpore cuts what is larger than 512 MB."""
    path = tmp_path / "model.ckpt"
    ms.save_checkpoint(tiny(1), str(path), crc_check=checksum)
    if checksum:
        content = path.read_bytes()
        path.write_bytes(content[:50] + b"?" + content[51:])
        with pytest.raises(ValueError, match="its checksum does not match"):
            load_weights(tiny(2), path)
        path.write_bytes(content)
    else:
        whole, cut = Checkpoint.FromString(path.read_bytes()), Checkpoint()
        for value in whole.value:
            data = value.tensor.tensor_content
            for part in (data[: len(data) // 8 * 4], data[len(data) // 8 * 4 :]):
                cut.value.add().CopyFrom(value)
                cut.value[-1].tensor.tensor_content = part
        path.write_bytes(cut.SerializeToString())
    model = tiny(2)
    assert load_weights(model, path) == []
    assert_equal(values(model), values(tiny(1)))


def _broken(path) -> None:
    path.write_bytes(b"\x0a\x10" + b"x" * 30)


def _truncated(path) -> None:
    ms.save_checkpoint(tiny(1), str(path))
    path.write_bytes(path.read_bytes()[:-3])


def _many(path) -> None:
    path.write_bytes(b"\x0a\x00" * 100_001)


@pytest.mark.parametrize(
    ("write", "message"), [(_broken, "damaged"), (_truncated, "damaged"), (_many, "too many tensors")]
)
def test_a_damaged_file_is_one_line(tmp_path, write, message):
    path = tmp_path / "weights.ckpt"
    write(path)
    with pytest.raises(ValueError, match=f"^path: '.*weights.ckpt' is not a readable .*{message}") as refused:
        load_weights(tiny(2), path)
    assert "\n" not in str(refused.value)
