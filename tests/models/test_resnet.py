"""Structure, initial weights and shortcuts of the models."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from models import create_model, resolve
from models.layers import SqueezeExcite, SubsampleAndPad

pytestmark = pytest.mark.usefixtures("on_cpu")

TINY = {"depths": [1, 1], "widths": [8, 16], "num_classes": 5}

# He et al. 2015 (CIFAR, 10 classes) and torchvision's and timm's published counts (1000 classes).
PUBLISHED_COUNTS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet50d": 25_576_264,
    "wide_resnet50_2": 68_883_240,
    "resnext50_32x4d": 25_028_904,
    "seresnet50": 28_088_024,
}


def count(model: nn.Cell) -> int:
    return sum(parameter.size for parameter in model.trainable_params())


def values(model: nn.Cell) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in model.parameters_and_names()}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_parameter_count_is_the_published_one(name):
    classes = 10 if PUBLISHED_COUNTS[name] < 2_000_000 else 1000
    assert count(create_model(name, num_classes=classes)) == PUBLISHED_COUNTS[name]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_d_variants_differ_in_stem_and_shortcut_alone(depth):
    """3·32·9 + 32·32·9 + 32·64·9 weights and two batch norms of 32 for 3·64·49; the pooling has none."""
    plain, d = (resolve(f"resnet{depth}{kind}") for kind in ("", "d"))
    assert replace(d, stem="imagenet", shortcut="B") == plain
    if depth < 100:
        more = (3 * 32 + 32 * 32 + 32 * 64) * 9 + 2 * 2 * 32 - 3 * 64 * 49
        assert count(create_model(f"resnet{depth}d")) == count(create_model(f"resnet{depth}")) + more


@pytest.mark.parametrize(("channels", "hidden"), [(32, 8), (176, 8), (192, 16), (304, 16), (320, 24), (2048, 128)])
def test_the_hidden_width_of_squeeze_and_excitation_is_timm_s(channels, hidden):
    """``make_divisible(channels / 16, 8, round_limit=0)``: 11 channels become 8, though that is a quarter less."""
    assert SqueezeExcite(channels).fc1.weight.shape[0] == hidden


def test_parameter_count_of_resnet20_with_projections():
    assert count(create_model("resnet20", num_classes=10, shortcut="B")) == 272_474


def test_parameters_are_named_after_their_place():
    model = create_model("resnet50")
    names = [name for name, _ in model.parameters_and_names()]
    assert names == [parameter.name for parameter in model.get_parameters()]
    for name in ("conv1.weight", "bn1.gamma", "layer1.0.conv1.weight", "layer4.2.bn3.moving_variance", "fc.bias"):
        assert name in names
    assert "layer1.0.downsample.0.weight" in names and "layer1.1.downsample.0.weight" not in names


def test_the_stride_of_a_bottleneck_sits_in_its_3x3_convolution():
    block = create_model("resnet50").layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet20", (3, 1, 28, 28)), ("resnet18d", (2, 1, 33, 65)), ("resnet50", (1, 1, 64, 64))]
)
def test_images_of_any_size_become_logits(name, shape):
    logits = create_model(name, num_classes=7, in_channels=1)(ops.ones(shape))
    assert logits.shape == (shape[0], 7) and logits.dtype == ms.float32


def test_half_precision_stays_half_precision():
    shortcut = SubsampleAndPad(2, 4, stride=2)
    assert shortcut(ops.ones((1, 2, 4, 4), ms.float16)).dtype == ms.float16


@pytest.mark.parametrize(
    "options", [{"shortcut": "A"}, {"shortcut": "B", "se": True}, {"shortcut": "D", "stem": "deep"}], ids=str
)
def test_logits_in_half_precision_are_close(options):
    logits = []
    for level in ("O0", "O2"):
        ms.set_seed(1)
        model = ms.amp.auto_mixed_precision(create_model("resnet20", **TINY, **options), level).set_train(False)
        images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
        logits.append(model(Tensor(images)).astype(ms.float32).asnumpy())
    difference = np.abs(logits[1] - logits[0]).max()
    assert 0 < difference < 0.01, "of logits around 1; without any it would not have been half precision"


class Loss(nn.Cell):
    """Σ weight · shortcut(x), whose gradient with respect to x is known."""

    def __init__(self, shortcut: nn.Cell) -> None:
        super().__init__()
        self.shortcut = shortcut

    def construct(self, x, weight):
        return (self.shortcut(x) * weight).sum()


class Gradient(nn.Cell):
    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.grad = ops.GradOperation()

    def construct(self, x, weight):
        return self.grad(self.network)(x, weight)


@pytest.mark.parametrize("size", [8, 7])
def test_shortcut_a_takes_every_second_pixel_and_adds_zero_channels(size):
    shortcut = SubsampleAndPad(3, 8, stride=2)
    x = np.random.default_rng(0).standard_normal((2, 3, size, size), np.float32)
    expected = np.zeros((2, 8, 4, 4), np.float32)
    expected[:, :3] = x[:, :, ::2, ::2]
    np.testing.assert_array_equal(shortcut(Tensor(x)).asnumpy(), expected)

    gradient = Gradient(Loss(shortcut))
    for seed in range(3):  # more than one call: MindSpore's ops.pad goes wrong from the second on
        weight = np.random.default_rng(seed).standard_normal(expected.shape, np.float32)
        expected_gradient = np.zeros_like(x)
        expected_gradient[:, :, ::2, ::2] = weight[:, :3]
        np.testing.assert_array_equal(gradient(Tensor(x), Tensor(weight)).asnumpy(), expected_gradient)


def test_initial_weights_are_he_normal_and_the_head_is_uniform():
    ms.set_seed(1)
    model = create_model("resnext50_32x4d")
    for conv in (model.conv1, model.layer3[0].conv2, model.layer4[2].conv3):
        weight = conv.weight.asnumpy()
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert weight.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert abs(weight.mean()) < 0.05 * weight.std()
        assert abs(weight).max() > 3 * weight.std()  # a normal distribution has tails, a uniform one ends at 1.7
    bound = 1 / model.fc.weight.shape[1] ** 0.5
    for parameter in (model.fc.weight, model.fc.bias):
        assert 0.95 * bound < abs(parameter.asnumpy()).max() <= bound
        assert parameter.asnumpy().std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_initial_weights_are_a_function_of_the_seed_alone():
    ms.set_seed(7)
    first = values(create_model("resnet20", **TINY, stem="deep", se=True))
    again = values(create_model("resnet20", **TINY, stem="deep", se=True))  # though more has been drawn by now
    ms.set_seed(8)
    other = values(create_model("resnet20", **TINY, stem="deep", se=True))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        assert not name.endswith("conv1.weight") or not np.array_equal(value, other[name])
    same_shape = ("layer1.0.conv1.weight", "layer1.0.conv2.weight")
    assert not np.array_equal(*(first[name] for name in same_shape))


@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_zero_init_last_gamma(name, last):
    gammas = {
        parameter_name: value
        for parameter_name, value in values(create_model(name, zero_init_last_gamma=True)).items()
        if parameter_name.endswith(".gamma")
    }
    for parameter_name, gamma in gammas.items():
        is_last = parameter_name.startswith("layer") and parameter_name.endswith(f"{last}.gamma")
        assert (gamma == (0 if is_last else 1)).all(), parameter_name


def test_bn_momentum_is_the_share_of_the_old_statistics():
    model = create_model("resnet20", **TINY, in_channels=1, bn_momentum=0.75).set_train()
    images = Tensor(np.random.default_rng(0).standard_normal((4, 1, 8, 8), np.float32))
    batch_mean = model.conv1(images).asnumpy().mean((0, 2, 3))
    model(images)
    np.testing.assert_allclose(model.bn1.moving_mean.asnumpy(), 0.25 * batch_mean, rtol=1e-4, atol=1e-6)
