"""Weights in and out, and what a file that does not fit is told."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import load_file, save_file

from models.weights import export_weights, load_weights
from tests.models.tiny import assert_equal, tiny, values

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture
def file(tmp_path):
    """A file of ``tiny(1)``."""
    export_weights(tiny(1), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def assert_refused(model: nn.Cell, file, *words: str) -> None:
    """Every one of ``words`` is in what is said of the file."""
    with pytest.raises(ValueError) as refused:
        load_weights(model, file)
    for part in words:
        assert part in str(refused.value)


def rewrite(file, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_round_trip_is_bit_exact(file, tmp_path):
    model = tiny(2)
    assert load_weights(model, file) == []
    assert_equal(values(model), values(tiny(1)))
    export_weights(model, tmp_path / "again.safetensors")
    assert_equal(load_file(tmp_path / "again.safetensors"), load_file(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "tiny.safetensors"]


def test_exported_names_are_those_of_torchvision_and_timm(file):
    names = load_file(file).keys()
    block = [name.removeprefix("layer2.0.") for name in names if name.startswith("layer2.0.")]
    norms = [
        f"{norm}.{leaf}"
        for norm in ("bn1", "bn2", "downsample.1")
        for leaf in ("weight", "bias", "running_mean", "running_var")
    ]
    filters = ["conv1.weight", "conv2.weight", "downsample.0.weight"]
    gate = ["se.fc1.weight", "se.fc1.bias", "se.fc2.weight", "se.fc2.bias"]
    assert sorted(block) == sorted(norms + filters + gate)
    assert {name for name in names if not name.startswith("layer")} == {
        *("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"),
        *("fc.weight", "fc.bias"),
    }


def test_a_file_with_mindspore_s_names_is_loaded_and_its_misfits_are_listed_under_them(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(values(tiny(1)), path)
    model = tiny(2)
    assert load_weights(model, path) == []
    assert_equal(values(model), values(tiny(1)))
    assert load_weights(tiny(2, num_classes=7), path) == ["fc.weight", "fc.bias"]

    def change(tensors):
        del tensors["bn1.moving_mean"]
        tensors["bn1.running_mean"] = np.zeros(8, np.float32)
        tensors["layer1.0.bn1.beta"] = np.zeros(9, np.float32)

    rewrite(path, change)
    assert_refused(
        model,
        path,
        "missing: bn1.moving_mean;",
        "unexpected: bn1.running_mean;",
        "mis-shaped: layer1.0.bn1.beta (9,), not (8,)",
    )


def test_a_model_in_half_precision_has_the_same_names(file, tmp_path):
    model = tiny(2)
    ms.amp.auto_mixed_precision(model, "O2")  # wraps each batch norm, in place
    assert load_weights(model, file) == []
    export_weights(model, tmp_path / "again.safetensors")
    assert_equal(load_file(tmp_path / "again.safetensors"), load_file(file))
    save_file(values(tiny(2)), file)
    assert load_weights(model, file) == []
    assert_equal({name: value.asnumpy() for name, value in model.parameters_dict().items()}, values(tiny(2)))


def test_a_head_for_other_classes_keeps_its_initial_values(file):
    model = tiny(2, num_classes=7)
    before = values(model)
    assert load_weights(model, file) == ["fc.weight", "fc.bias"]
    after, source = values(model), values(tiny(1))
    for name, value in after.items():
        np.testing.assert_array_equal(value, before[name] if name.startswith("fc.") else source[name])


def test_pytorch_s_counters_are_left_out_and_half_precision_becomes_float32(file):
    rewrite(file, lambda tensors: tensors.update({"bn1.num_batches_tracked": np.array(7)}))
    rewrite(file, lambda tensors: tensors.update({"fc.bias": tensors["fc.bias"].astype(np.float16)}))
    model = tiny(2)
    load_weights(model, file)
    assert model.fc.bias.dtype == ms.float32
    np.testing.assert_array_equal(model.fc.bias.asnumpy(), load_file(file)["fc.bias"].astype(np.float32))


def test_a_compiled_model_computes_with_what_was_loaded(file):
    image = ms.ops.ones((1, 3, 8, 8))
    model = tiny(2).set_train(False)
    model(image)
    load_weights(model, file)
    np.testing.assert_array_equal(model(image).asnumpy(), tiny(1).set_train(False)(image).asnumpy())


def test_every_misfit_is_listed_and_nothing_is_loaded(file):
    def change(tensors):
        del tensors["conv1.weight"], tensors["bn1.running_var"]
        tensors["linear.weight"] = tensors["fc.weight"]
        tensors["layer1.0.bn1.bias"] = np.zeros(9, np.float32)
        tensors["fc.weight"] = np.zeros((5, 17), np.float32)

    rewrite(file, change)
    model = tiny(2)
    before = values(model)
    assert_refused(
        model,
        file,
        "missing: conv1.weight, bn1.running_var;",
        "unexpected: linear.weight;",
        "mis-shaped: layer1.0.bn1.bias (9,), not (8,), fc.weight (5, 17), not (5, 16)",
    )
    assert_equal(values(model), before)


def test_half_a_head_is_a_misfit(file):
    rewrite(file, lambda tensors: tensors.update({"fc.bias": np.zeros(6, np.float32)}))
    with pytest.raises(ValueError, match=r"mis-shaped: fc.bias \(6,\), not \(5,\)"):
        load_weights(tiny(2), file)


@pytest.mark.parametrize("path", ["no folder/tiny.safetensors", "folder"])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=f"{path}' cannot be written") as refused:
        export_weights(tiny(1), tmp_path / path)
    assert "\n" not in str(refused.value)
    assert [found.name for found in tmp_path.rglob("*")] == ["folder"]
