"""A plain PyTorch ResNet with torchvision's and timm's names, written apart from ours, to compare with.

``python -m tests.models.torch_resnet`` (where PyTorch is installed) writes its logits to ``torch_logits.json``,
so that ours are compared with them also where it is not.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from tests.models.reference import CASES, GOLDEN, Case, images, random_weights


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # timm rounds channels / 16 to a multiple of 8; the cases here have at most 128 channels or multiples of 128
        hidden = max(8, channels // 16)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        squeezed = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(squeezed))))


class Residual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, case: Case) -> None:
        super().__init__()
        self.stride = stride
        if case.bottleneck:
            outputs, inner = 4 * width, int(width * (case.base_width / 64)) * case.groups
            self.conv1, self.bn1 = conv_bn(inputs, inner, 1)
            self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride, case.groups)
            self.conv3, self.bn3 = conv_bn(inner, outputs, 1)
        else:
            outputs = width
            self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride)
            self.conv2, self.bn2 = conv_bn(outputs, outputs, 3)
        self.bottleneck, self.extra = case.bottleneck, outputs - inputs
        self.se = Squeeze(outputs) if case.se else nn.Identity()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            if case.shortcut == "B":
                self.downsample = nn.Sequential(*conv_bn(inputs, outputs, 1, stride))
            elif case.shortcut == "D":
                pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
                pool = pool if stride == 2 else nn.Identity()
                self.downsample = nn.Sequential(pool, *conv_bn(inputs, outputs, 1))

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(functional.relu(out)))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride != 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(self.se(out) + x)


class TorchResNet(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        channels = case.widths[0]
        if case.stem == "deep":
            half = channels // 2
            first, second = conv_bn(3, half, 3, 2), conv_bn(half, half, 3)
            last, self.bn1 = conv_bn(half, channels, 3)
            self.conv1: nn.Module = nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), last)
        elif case.stem == "imagenet":
            self.conv1, self.bn1 = conv_bn(3, channels, 7, 2)
        else:
            self.conv1, self.bn1 = conv_bn(3, channels, 3)
        self.maxpool = nn.Identity() if case.stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        self.depth = len(case.depths)
        for index, (depth, width) in enumerate(zip(case.depths, case.widths, strict=True)):
            blocks = []
            for position in range(depth):
                blocks.append(Residual(channels, width, 2 if index and not position else 1, case))
                channels = 4 * width if case.bottleneck else width
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, case.classes)

    def forward(self, x):
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        for index in range(self.depth):
            x = getattr(self, f"layer{index + 1}")(x)
        return self.fc(x.mean((2, 3)))


def torch_model(case: Case) -> TorchResNet:
    """The case's model with ``random_weights`` in it."""
    model = TorchResNet(case)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if value.dim()}
    weights = {name: torch.from_numpy(value) for name, value in random_weights(shapes).items()}
    model.load_state_dict(weights, strict=True)
    return model


def calibrate(model: TorchResNet, x: torch.Tensor) -> None:
    """Make a deep model as tame as a trained one: moving statistics of a batch, residual branches of small gain.

    Otherwise rounding alone grows past 1e-4 in a hundred layers, in PyTorch against its own float64 as well.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, Residual):
            last = module.bn3 if module.bottleneck else module.bn2
            last.weight.data *= 0.2
    with torch.no_grad():
        model.train()(x)


def main() -> None:
    torch.set_num_threads(1)
    logits = {}
    for case in CASES:
        with torch.no_grad():
            logits[case.name] = torch_model(case).eval()(torch.from_numpy(images(case))).tolist()
    Path(GOLDEN).write_text(json.dumps(logits, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
