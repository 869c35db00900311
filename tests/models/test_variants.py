"""What a user may ask for, and what the answer is otherwise."""

import subprocess
import sys

import pytest

from models import list_models, resolve


def test_every_listed_name_resolves():
    assert "resnet20" in list_models() and "resnet50d" in list_models()
    for name in list_models():
        assert resolve(name).depths


def test_checking_a_request_does_not_import_mindspore():
    code = "import sys, models; models.resolve('resnet50', se=True); sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_options_replace_those_of_the_variant():
    options = resolve("resnet20", shortcut="B", depths=[1, 2, 3])
    assert (options.shortcut, options.depths, options.stem) == ("B", (1, 2, 3), "cifar")
    assert resolve("resnet20").shortcut == "A"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5O", {}, r"unknown name 'resnet5O'; did you mean resnet5"),
        ("vgg", {}, r"unknown name 'vgg'; choose from resnet20, resnet32"),
        (["resnet50"], {}, r"unknown name \['resnet50'\]"),
        ("resnet50", {"shortcuts": "A"}, r"resnet50: unknown option 'shortcuts'; did you mean shortcut\?"),
        ("resnet50", {"shortcut": "C"}, r"shortcut: 'C' is not allowed; give one of A, B, D"),
        ("resnet50", {"block": ["basic"]}, r"block: \['basic'\] is not allowed"),
        ("resnet50", {"stem": "none"}, r"stem: 'none' is not allowed"),
        ("resnet50", {"depths": [3, 4]}, r"depths: \(3, 4\) is not allowed; give 4 numbers"),
        ("resnet50", {"depths": [3, 4, 6, 0]}, r"depths: .* is not allowed; give a list of whole numbers"),
        ("resnet50", {"widths": 64}, r"widths: 64 is not allowed"),
        ("resnet20", {"widths": [64, 32, 16]}, r"widths: .* is not allowed; give rising ones"),
        ("resnet50d", {"widths": [1, 64, 64, 64]}, r"widths: .* deep stem"),
        ("resnet50", {"base_width": 0}, r"base_width: 0 is not allowed"),
        ("resnext50_32x4d", {"widths": [8, 16, 32, 64]}, r"base_width: 4 is not allowed; give 8 or more"),
        ("resnet18", {"groups": 2}, r"groups: 2 is not allowed; give 1, or set block=bottleneck"),
        ("resnet50", {"se": 1}, r"se: 1 is not allowed; give true or false"),
        ("resnet50", {"bn_momentum": 1.0}, r"bn_momentum: 1.0 is not allowed"),
        ("resnet50", {"depths": []}, r"depths: \[\] is not allowed; give a list"),
        ("resnet50", {"depths": "3463"}, r"depths: '3463' is not allowed; give a list"),
        ("resnet50", {"groups": True}, r"groups: True is not allowed; give a whole number"),
        ("resnet50", {"bn_eps": float("nan")}, r"bn_eps: nan is not allowed"),
        ("resnet50", {"bn_eps": "1e-5"}, r"bn_eps: '1e-5' is not allowed; give a number"),
        ("resnet50", {"num_classes": 0}, r"num_classes: 0 is not allowed"),
        ("resnet50", {"in_channels": True}, r"in_channels: True is not allowed"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        resolve(name, **options)
    assert (
        "\n" not in str(refused.value) and type(refused.value) is ValueError
    )  # pydantic's says more, in its own words
