"""A run that starts from the weights of another: what is loaded, what is refused, and the recipe for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import nn
from safetensors.numpy import load_file, save_file

import models
from models.weights import export_weights
from tests.jobs import ROOT, alone
from tests.test_documents import FENCE
from tests.train.run.test_trained import draw_folder
from train.checkpoint.card import METADATA_KEY, InputCard, ModelCard
from train.recipe.sections import InitFrom
from train.run.opening import load_initial_weights
from train.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("on_cpu")


def small_model(seed: int = 1, *, num_classes: int = 10, in_channels: int = 1) -> nn.Cell:
    ms.set_seed(seed)
    return models.create_model("resnet20", num_classes=num_classes, in_channels=in_channels, depths=[1, 1, 1])


CARD = ModelCard(
    name="resnet20",
    options={"depths": [1, 1, 1]},
    num_classes=10,
    channels=1,
    class_names=list("0123456789"),
    image_size=8,
    eval_resize=0,
    orientation="apply",
    background="white",
    max_pixels=100,
    mean=[0.3],
    std=[0.3],
    precision="fp32",
    batch_norm="fp32",
    inputs=[InputCard(name="", shape=[1, 8, 8], dtype="uint8")],
    gives="classes",
    versions={},
)


def values(model: nn.Cell) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in model.get_parameters()}


def test_every_key_of_init_from_reaches_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = small_model(5, in_channels=3)
    export_weights(given, tmp_path / "given.safetensors")

    tensors = {f"module.{name}": value for name, value in load_file(tmp_path / "given.safetensors").items()}
    tensors["module.head.weight"] = tensors.pop("module.fc.weight")
    del tensors["module.layer3.0.conv2.weight"]
    save_file(tensors, tmp_path / "other.safetensors")
    model = small_model(6)
    before = values(model)
    options = {"path": str(tmp_path / "other.safetensors"), "grey_stem": "sum", "strict": False}
    load_initial_weights(model, InitFrom(**options, rename={"module.head.": "module.fc."}, drop=["fc.bias"]), CARD)
    after, source = values(model), values(given)
    for name in ("fc.bias", "layer3.0.conv2.weight"):
        np.testing.assert_array_equal(after[name], before[name])
    for name in ("fc.weight", "layer1.0.conv1.weight", "layer2.0.bn1.moving_mean"):
        np.testing.assert_array_equal(after[name], source[name])
    np.testing.assert_allclose(after["conv1.weight"], source["conv1.weight"].sum(1, keepdims=True), rtol=1e-6)
    said = capsys.readouterr().out
    assert "begins with 'module.', which is taken off" in said and "summed over the input channels: conv1" in said
    assert "initialised at random: layer3.0.conv2.weight, fc.bias" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": ["head.*"]}, "model.init_from.drop: 'head.*' fits no name of the file; it has "),
        ({"rename": {"head.": "fc."}}, "model.init_from.rename: no name of the file begins with 'head.'"),
        ({"grey_stem": "sum"}, "model.init_from.grey_stem: no weight for three channels"),
        ({"path": "nowhere.safetensors"}, "model.init_from.path=nowhere.safetensors: cannot be read: No such file"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_key(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    export_weights(small_model(), path)
    with pytest.raises(UserError) as refused:
        load_initial_weights(small_model(), InitFrom(**{"path": str(path), **options}), CARD)
    assert str(refused.value).startswith(words) and "\n" not in str(refused.value)
    assert str(refused.value).count(",") < 8


@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.bn1.moving_variance"])
def test_weights_and_statistics_that_are_not_finite_are_refused_by_name(name: str, tmp_path: Path) -> None:
    tensors = values(small_model())
    tensors[name].flat[0] = np.nan
    save_file(tensors, tmp_path / "given.safetensors")
    model = small_model(2)
    before = values(model)
    with pytest.raises(UserError, match=rf"model\.init_from\.path: .* has NaN or infinity in {name}"):
        load_initial_weights(model, InitFrom(path=str(tmp_path / "given.safetensors")), CARD)
    for key, value in values(model).items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (list("0123456798"), "class 8 is '9' there and '8' here"),
        (list("abcdefghij"), "class 0 is 'a' there and '0' here"),
    ],
)
def test_a_head_for_other_classes_is_refused_by_name_and_can_be_dropped(
    names: list[str], difference: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.safetensors")
    theirs = CARD.model_copy(update={"class_names": names})
    save_file(values(small_model(5)), path, {METADATA_KEY: theirs.to_json()})
    with pytest.raises(UserError, match=rf"model\.init_from\.path=.*{difference}; model\.init_from\.drop=\[fc"):
        load_initial_weights(small_model(), InitFrom(path=path), CARD)
    model = small_model()
    load_initial_weights(model, InitFrom(path=path, drop=["fc.*"]), CARD)
    np.testing.assert_array_equal(values(model)["conv1.weight"], values(small_model(5))["conv1.weight"])
    load_initial_weights(small_model(), InitFrom(path=path), theirs)


YAML = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)
GUIDE = ROOT / "train" / "FINETUNE.md"
SMALLER = [
    "model.options={depths: [1, 1, 1, 1], widths: [16, 32, 48, 64]}",
    "data.image_size=32",
    "data.eval_resize=36",
    "data.global_batch=12",
]
SMALLER += ["schedule.total=6 epochs", "snapshots.layers=[fc.weight]"]


def test_the_guide_runs_on_a_small_folder_of_images(tmp_path: Path) -> None:
    """Every command of the page, in its order; only the network and the images are smaller."""
    root = draw_folder(tmp_path / "images", ("dark", "grey", "light"), 12)
    ms.set_seed(3)
    pretrained = models.create_model("resnet18", num_classes=1000, depths=[1, 1, 1, 1], widths=[16, 32, 48, 64])
    export_weights(pretrained, tmp_path / "weights.safetensors")
    (tmp_path / "train").symlink_to(ROOT / "train")
    images = [path for path in sorted(root.glob("val/*/*")) if path.is_file()]
    given = {"<root>": str(root), "<weights>": "weights.safetensors", "<image>": " ".join(map(str, images))}
    said = {}
    for command in (line for block in FENCE.findall(GUIDE.read_text()) for line in block.splitlines()):
        text = command
        for placeholder, value in given.items():
            text = text.replace(placeholder, value)
        words = text.split()
        assert words[:2] == ["python", "-m"]
        done = alone([*words[1:], *(SMALLER if words[2] == "train" else [])], tmp_path).check()
        said[command] = done.logs[0]
    assert (
        yaml.safe_load(YAML.search(GUIDE.read_text())[1])["optimizer"].items()
        <= yaml.safe_load((ROOT / "train" / "recipes" / "finetune_folder.yaml").read_text())["optimizer"].items()
    )
    (saved,) = (tmp_path / "runs" / "tuned" / "checkpoints").glob("step-00000018")
    trained, start = load_file(saved / "model.safetensors"), values(pretrained)
    for name, value in start.items():
        frozen = name.startswith(("conv1.", "bn1.", "layer1."))
        assert name.startswith("fc.") or (trained[name] == value).all() == frozen, name
    first, *others = said.values()
    assert "initialised at random: fc.weight, fc.bias\n" in first and "every update is W_start" in first
    top1 = json.loads(others[0])["top1"]
    predicted, from_export = (text.splitlines() for name, text in said.items() if "train.predict" in name)
    assert predicted == from_export and len(predicted) == len(images)
    right = [
        json.loads(line)["top"][0]["class"] == path.parent.name for line, path in zip(predicted, images, strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(top1) and top1 > 0.6
