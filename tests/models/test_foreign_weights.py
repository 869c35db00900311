"""Files of other people: their formats, their names, their heads, their faults."""

import functools
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Parameter, Tensor, nn
from safetensors.numpy import load_file, save_file

from models import create_model
from models.weights import export_weights, list_names, load_weights
from tests.jobs import ROOT
from tests.models.tiny import assert_equal, tiny, values

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture
def tensors(tmp_path):
    """Those of ``tiny(1)`` under PyTorch's names."""
    export_weights(tiny(1), tmp_path / "torch.safetensors")
    return load_file(tmp_path / "torch.safetensors")


@pytest.fixture
def load(tmp_path):
    """Load tensors from a file into a model; what was told is in ``load.told``."""

    def load(model: nn.Cell, tensors: dict[str, np.ndarray], **options) -> list[str]:
        save_file(tensors, tmp_path / "file.safetensors")
        load.told = []
        return load_weights(model, tmp_path / "file.safetensors", tell=load.told.append, **options)

    return load


def with_prefix(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize("prefix", ["module.", "module.backbone."])
def test_a_prefix_of_every_name_is_taken_off_and_told(load, tensors, prefix):
    model = tiny(2)
    assert load(model, with_prefix(prefix, tensors)) == []
    assert_equal(values(model), values(tiny(1)))
    assert load.told == [f"every name in the file begins with {prefix!r}, which is taken off"]
    assert load(tiny(2), tensors) == [] and load.told == []


def test_it_is_told_on_standard_output_unless_said_otherwise(tensors, tmp_path, capsys):
    save_file(with_prefix("module.", tensors), tmp_path / "file.safetensors")
    load_weights(tiny(2), tmp_path / "file.safetensors")
    assert "begins with 'module.'" in capsys.readouterr().out


def test_a_prefix_that_the_model_has_too_stays(load):
    class Wrapped(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Dense(2, 3)

    model = Wrapped()
    weight = np.ones((3, 2), np.float32)
    assert load(model, {"module.weight": weight, "module.bias": weight[:, 0]}) == []
    assert load.told == [] and model.module.weight.asnumpy().all()


def test_beginnings_of_names_are_renamed(load, tensors):
    theirs = {name.replace("fc.", "classifier."): value for name, value in tensors.items()}
    model = tiny(2)
    assert load(model, theirs, rename={"classifier.": "fc."}) == []
    assert_equal(values(model), values(tiny(1)))
    assert load(tiny(2, num_classes=9), theirs, rename={"classifier.": "fc."}) == ["fc.weight", "fc.bias"]
    assert load(tiny(2), with_prefix("old.", tensors), rename={"old.": ""}) == [] and load.told == []


def test_dropped_names_keep_their_initial_values(load, tensors):
    model = tiny(2)
    before = values(model)
    assert load(model, tensors, drop=["fc.*", "bn1.running_*"]) == [
        "bn1.running_mean",
        "bn1.running_var",
        "fc.weight",
        "fc.bias",
    ]
    after, source = values(model), values(tiny(1))
    for name, value in after.items():
        fresh = name.startswith(("fc.", "bn1.moving_"))
        np.testing.assert_array_equal(value, before[name] if fresh else source[name], err_msg=name)


def test_not_strict_takes_what_fits(load, tensors):
    theirs = {name: value for name, value in tensors.items() if not name.startswith("layer2.")}
    theirs["aux.weight"] = np.ones(3, np.float32)
    model = tiny(2)
    kept = load(model, theirs, strict=False)
    assert kept and all(name.startswith("layer2.") for name in kept)
    assert load.told == ["in the file and not in the model: aux.weight"]
    np.testing.assert_array_equal(model.conv1.weight.asnumpy(), tensors["conv1.weight"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"drop": ["fx.*"]}, r"^drop: 'fx\.\*' fits no name of the file; it has bn1\.bias, .* and \d+ more$"),
        ({}, {"rename": {"module.": ""}}, r"^rename: no name of the file begins with 'module\.'; it has bn1\.bias, "),
        ({}, {"rename": {"fc.weight": "fc.bias"}}, r"^rename: two names of the file become 'fc\.bias'$"),
        ({}, {"grey_stem": "mean"}, r"^grey_stem: 'mean' is not allowed; give sum"),
        ({}, {"grey_stem": "sum"}, r"^grey_stem: no weight for three channels"),
        ({"fc.weight": np.zeros((5, 3), np.float32)}, {"strict": False}, r"mis-shaped: fc\.weight \(5, 3\), not"),
        (
            {"bn1.running_mean": np.full(8, np.nan, np.float32)},
            {},
            r"has NaN or infinity in bn1\.running_mean; nothing",
        ),
        ({"fc.bias": np.array([0, 0, -np.inf, 0, 0], np.float32)}, {}, r"has NaN or infinity in fc\.bias; nothing"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line_and_nothing_is_loaded(load, tensors, change, options, message):
    model = tiny(2)
    before = values(model)
    with pytest.raises(ValueError, match=message) as refused:
        load(model, tensors | change, **options)
    assert "\n" not in str(refused.value)
    assert_equal(values(model), before)


def test_a_nan_that_is_dropped_does_no_harm(load, tensors):
    tensors["fc.bias"] = np.full(5, np.nan, np.float32)
    assert load(tiny(2), tensors, drop=["fc.*"]) == ["fc.weight", "fc.bias"]


def test_another_model_s_file_is_told_in_a_few_names(load):
    theirs = {f"block{number}.weight": np.ones(1, np.float32) for number in range(500)}
    with pytest.raises(
        ValueError, match=r"missing: conv1\.weight, .* and \d+ more; unexpected: .* and 495 more"
    ) as told:
        load(tiny(2), theirs)
    assert len(str(told.value)) < 600
    with pytest.raises(ValueError, match="no name in common"):
        load(tiny(2), theirs, strict=False)
    assert list_names("abcde") == "a, b, c, d, e" and list_names("abcdefg") == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize("options", [{"stem": "cifar"}, {"stem": "deep"}], ids=str)
def test_a_grey_stem_sees_what_an_rgb_stem_sees_in_a_grey_image(load, tmp_path, options):
    rgb, grey = tiny(1, **options), tiny(2, in_channels=1, **options)
    export_weights(rgb, tmp_path / "rgb.safetensors")
    theirs = load_file(tmp_path / "rgb.safetensors")
    with pytest.raises(ValueError, match=r"mis-shaped: conv1.* 3, 3, 3\), not \(.* 1, 3, 3\)"):
        load(grey, theirs)
    assert load(grey, theirs, grey_stem="sum") == []
    stem = "conv1.0.weight" if options["stem"] == "deep" else "conv1.weight"
    assert load.told == [f"summed over the input channels: {stem}"]
    image = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
    seen = grey.set_train(False)(Tensor(image)).asnumpy()
    expected = rgb.set_train(False)(Tensor(np.repeat(image, 3, axis=1))).asnumpy()
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("publisher", ["torchvision", "timm", "MindCV"])
def test_published_files_fit_as_the_guide_says(tmp_path, publisher):
    """Files of the published names and shapes; ``rename`` is read from the page."""
    source, model = create_model("resnet18"), create_model("resnet18")
    if publisher == "MindCV":
        pytest.importorskip("models.ckpt")
        theirs = {"fc.": "classifier.", ".downsample.": ".down_sample."}
        tensors = [
            {"name": functools.reduce(lambda name, old: name.replace(old, theirs[old]), theirs, name), "data": value}
            for name, value in source.parameters_and_names()
        ]
        ms.save_checkpoint(tensors, str(tmp_path / "file.ckpt"))
        assert sum(one["name"].startswith(("classifier.", "layer2.0.down_sample.")) for one in tensors) == 7
    else:
        export_weights(source, tmp_path / "file.ckpt")
        tensors = load_file(tmp_path / "file.ckpt")
        norms = [name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean")]
        save_file(tensors | {f"{name}num_batches_tracked": np.array(9) for name in norms}, tmp_path / "file.ckpt")
    page = (ROOT / "train" / "FINETUNE.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| {publisher} |"))
    found = re.search(r"rename=({.*?})", row)
    assert load_weights(model, tmp_path / "file.ckpt", rename=yaml.safe_load(found[1]) if found else {}) == []
    assert_equal(values(model), values(source))


def test_safetensors_in_bfloat16(tmp_path):
    """NumPy lacks the type, and so does safetensors for NumPy."""
    source = values(tiny(1))
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in source.items()}
    header, data = {}, b""
    for name, half in halves.items():
        offsets = [len(data), len(data := data + half.tobytes())]
        header[name] = {"dtype": "BF16", "shape": half.shape, "data_offsets": offsets}
    described = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(described).to_bytes(8, "little") + described + data)
    model = tiny(2)
    assert load_weights(model, tmp_path / "a") == []
    assert_equal(values(model), {n: (half.astype(np.uint32) << 16).view(np.float32) for n, half in halves.items()})


def test_safetensors_under_another_name(tensors, tmp_path):
    save_file(tensors, tmp_path / "model.ckpt")
    assert load_weights(tiny(2), tmp_path / "model.ckpt") == []


def _zip(path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "is not a readable .*it is empty"),
        (lambda path: path.write_bytes(b"no weights at all"), "is not a readable .*unknown first bytes"),
        (_zip, "is a pickle, as PyTorch's .pth are, .*safetensors.torch.save_file"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle, as PyTorch's .pth are"),
        (lambda path: path.write_bytes(b"version https://git-lfs and more\n"), "is a pointer of Git LFS"),
    ],
    ids=["empty", "text", "zip", "pickle", "pointer"],
)
def test_other_files_are_told_from_their_first_bytes(tmp_path, write, message):
    path = tmp_path / "weights.ckpt"
    write(path)
    with pytest.raises(ValueError, match=f"^path: '.*weights.ckpt' {message}") as refused:
        load_weights(tiny(2), path)
    assert "\n" not in str(refused.value)


def test_what_no_weight_can_be_is_refused_once_it_has_the_parameter_s_type(load, tensors):
    for name, value, message in (
        ("fc.bias", np.full(5, 1e300), "NaN or infinity in fc.bias"),
        ("bn1.running_var", np.full(8, -1e-6, np.float32), "variances below 0 in bn1.running_var"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tiny(2), tensors | {name: value})


def test_a_type_that_numpy_lacks_is_one_line(tmp_path):
    header = json.dumps({"fc.bias": {"dtype": "F8_E4M3", "shape": [5], "data_offsets": [0, 5]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"12345")
    with pytest.raises(ValueError, match=r"'fc\.bias' has the type 'F8_E4M3', which is not read"):
        load_weights(tiny(2), path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None], ids=["pipe", "folder", "nothing"])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "weights.ckpt")
    with pytest.raises(OSError, match=r"No such file|is not a regular file"):
        load_weights(tiny(2), tmp_path / "weights.ckpt")


class WithCount(nn.Cell):
    """What train.step.dropout.Dropout leaves in a model: a count of passes, which is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Dense(2, 3)
        drop = nn.Cell()  # gets the prefix of its parameters when it is taken in
        drop.passes = Parameter(Tensor([7], ms.int32), name="passes", requires_grad=False)
        self.drop = drop


def test_a_count_is_no_weight(load):
    model, plain = WithCount(), nn.SequentialCell(OrderedDict(fc=nn.Dense(2, 3)))
    weights = {name: np.ones(p.shape, np.float32) for name, p in plain.parameters_dict().items()}
    assert load(model, weights) == [] and model.drop.passes.asnumpy() == [7]
    assert load(model, {**weights, "drop.passes": np.array([9], np.int32)}) == [] and model.drop.passes.asnumpy() == [9]
    assert load(plain, {**weights, "drop.passes": np.array([9], np.int32)}) == []


class Transformer(nn.Cell):
    """As timm's, whose last layer is called head."""

    def __init__(self, classes: int):
        super().__init__()
        self.blocks = nn.SequentialCell(nn.Dense(4, 4), nn.LayerNorm((4,)))
        self.head = nn.Dense(4, classes)


def test_the_head_is_the_last_linear_layer_whatever_it_is_called(tmp_path):
    export_weights(Transformer(3), tmp_path / "vit.safetensors")
    model = Transformer(5)
    before = values(model)["head.weight"]
    assert load_weights(model, tmp_path / "vit.safetensors") == ["head.weight", "head.bias"]
    assert (values(model)["head.weight"] == before).all()
    assert load_weights(Transformer(3), tmp_path / "vit.safetensors") == []


def test_a_part_of_another_model_is_loaded_as_itself(tensors, load):
    whole = nn.Cell()
    whole.teacher = tiny(2)
    assert next(iter(whole.teacher.parameters_dict())).startswith("teacher.")
    assert load(whole.teacher, tensors) == []
    assert_equal({name.removeprefix("teacher."): value for name, value in values(whole).items()}, values(tiny(1)))
