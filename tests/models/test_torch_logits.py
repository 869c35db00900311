"""Our models against PyTorch models that hold the same weights."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file, save_file

from models import create_model, list_models, resolve
from models.weights import export_weights, load_weights
from tests.models.reference import CASES, GOLDEN, Case, images, random_weights

pytestmark = pytest.mark.usefixtures("on_cpu")

TOLERANCE = 1e-5  # the small cases' logits are of order one
FULL_SIZE_TOLERANCE = 1e-4


def model_with(weights: dict[str, np.ndarray], case: Case, folder) -> nn.Cell:
    """Our model of the case, filled through a file as a user would."""
    save_file(weights, folder / "torch.safetensors")
    model = create_model("resnet50", **case.options)
    assert load_weights(model, folder / "torch.safetensors") == []
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_are_those_that_pytorch_gave(case, tmp_path):
    export_weights(create_model("resnet50", **case.options), tmp_path / "ours.safetensors")
    shapes = {name: value.shape for name, value in load_file(tmp_path / "ours.safetensors").items()}
    model = model_with(random_weights(shapes), case, tmp_path)
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[case.name]
    logits = model.set_train(False)(Tensor(images(case))).asnumpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture
def torch_side():
    """The PyTorch model's module, where PyTorch is installed."""
    pytest.importorskip("torch")
    from tests.models import torch_resnet

    return torch_resnet


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_weights_go_to_pytorch_and_back(case, torch_side, tmp_path):
    torch = torch_side.torch
    theirs = torch_side.torch_model(case).eval()
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    ours = model_with(state, case, tmp_path).set_train(False)
    export_weights(ours, tmp_path / "ours.safetensors")
    exported = {name: torch.from_numpy(value) for name, value in load_file(tmp_path / "ours.safetensors").items()}
    returned = torch_side.TorchResNet(case).eval()
    returned.load_state_dict(exported, strict=True)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images(case))).numpy()
        after_return = returned(torch.from_numpy(images(case))).numpy()
    np.testing.assert_array_equal(after_return, expected)
    np.testing.assert_allclose(ours(Tensor(images(case))).asnumpy(), expected, rtol=0, atol=TOLERANCE)


def full_size(name: str) -> Case:
    options = resolve(name)
    own = ("depths", "widths", "shortcut", "stem", "groups", "base_width", "se")
    values = {field: getattr(options, field) for field in own}
    size = 32 if options.stem == "cifar" else 96
    return Case(name, bottleneck=options.block == "bottleneck", size=size, classes=1000, **values)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_logits_of_full_size_models(name, torch_side, tmp_path):
    case = full_size(name)
    x = torch_side.torch.from_numpy(images(case))
    theirs = torch_side.torch_model(case)
    torch_side.calibrate(theirs, x)
    ours = model_with({key: value.numpy() for key, value in theirs.state_dict().items()}, case, tmp_path)
    with torch_side.torch.no_grad():
        expected = theirs.eval()(x).numpy()
    difference = np.abs(ours.set_train(False)(Tensor(images(case))).asnumpy() - expected).max()
    print(f"{name}: largest logit {np.abs(expected).max():.2f}, largest difference {difference:.1e}")
    assert difference <= FULL_SIZE_TOLERANCE


def test_gradients_and_moving_statistics_of_a_training_step_are_pytorch_s(torch_side, tmp_path):
    # PyTorch computes in float64: in float32 it may take another side of a ReLU near 0, a jump of one percent.
    torch = torch_side.torch
    case = CASES[1]
    x, labels = images(case, 4), np.arange(4) % case.classes
    theirs = torch_side.torch_model(case).train()
    ours = model_with({name: value.numpy().copy() for name, value in theirs.state_dict().items()}, case, tmp_path)
    theirs = theirs.double()
    torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x).double()), torch.from_numpy(labels)).backward()

    network = nn.WithLossCell(ours, nn.CrossEntropyLoss()).set_train()
    parameters = list(ours.trainable_params())
    gradients = ms.grad(network, None, parameters)(Tensor(x), Tensor(labels, ms.int32))
    expected = dict(theirs.named_parameters())
    renamed = {"gamma": "weight", "beta": "bias"}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        layer, _, leaf = parameter.name.rpartition(".")
        reference = expected[f"{layer}.{renamed.get(leaf, leaf)}"].grad.numpy()
        tolerance = 1e-4 * np.abs(reference).max()
        np.testing.assert_allclose(gradient.asnumpy(), reference, 0, tolerance, err_msg=parameter.name)
    np.testing.assert_allclose(ours.bn1.moving_mean.asnumpy(), theirs.bn1.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.bn1.moving_variance.asnumpy(), theirs.bn1.running_var.numpy(), rtol=1e-5)
