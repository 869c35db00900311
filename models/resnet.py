"""Residual networks (He et al. 2015) and their descendants: one implementation, many options.

As in torchvision, the stride of a bottleneck sits in its 3×3 convolution ("v1.5"); layers have its names.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from models.layers import MaxPoolBehindReLU, SqueezeExcite, conv, norm, shortcut
from models.variants import ResNetOptions


class BasicBlock(nn.Cell):
    """Two 3×3 convolutions: (N, in, H, W) → (N, width, ⌈H/stride⌉, ⌈W/stride⌉)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, options: ResNetOptions) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = norm(width, options)
        self.conv2 = conv(width, width, 3)
        self.bn2 = norm(width, options, ends_branch=True)
        self.se = SqueezeExcite(width) if options.se else nn.Identity()
        self.downsample = shortcut(in_channels, width, stride, options)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Cell):
    """1×1, 3×3, 1×1 convolutions: (N, in, H, W) → (N, 4·width, ⌈H/stride⌉, ⌈W/stride⌉)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, options: ResNetOptions) -> None:
        super().__init__()
        inner = width * options.base_width // 64 * options.groups
        out_channels = width * self.expansion
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = norm(inner, options)
        self.conv2 = conv(inner, inner, 3, stride, options.groups)
        self.bn2 = norm(inner, options)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = norm(out_channels, options, ends_branch=True)
        self.se = SqueezeExcite(out_channels) if options.se else nn.Identity()
        self.downsample = shortcut(in_channels, out_channels, stride, options)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return self.relu(out + self.downsample(x))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Cell):
    """Images (N, in_channels, H, W), floating point → logits (N, num_classes) of the same type."""

    def __init__(self, options: ResNetOptions, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.options = options
        width = options.widths[0]
        self.conv1 = _stem_conv(in_channels, width, options)
        self.bn1 = norm(width, options)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity()
        if options.stem != "cifar":
            self.maxpool = MaxPoolBehindReLU()
        stages, channels = _stages(width, options)
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(stages) + 1))
        for name, stage in zip(self.stage_names, stages, strict=True):
            setattr(self, name, stage)
        self.stages = stages
        self.fc = nn.Dense(channels, num_classes, weight_init="zeros", bias_init="zeros")

    def construct(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = stage(x)
        return self.fc(ops.mean(x, (2, 3)))


def _stem_conv(in_channels: int, width: int, options: ResNetOptions) -> nn.Cell:
    if options.stem == "cifar":
        return conv(in_channels, width, 3)
    if options.stem == "imagenet":
        return conv(in_channels, width, 7, 2)
    half = width // 2
    return nn.SequentialCell(
        conv(in_channels, half, 3, 2),
        norm(half, options),
        nn.ReLU(),
        conv(half, half, 3),
        norm(half, options),
        nn.ReLU(),
        conv(half, width, 3),
    )


def _stages(channels: int, options: ResNetOptions) -> tuple[list[nn.SequentialCell], int]:
    """The stages, and the channels that leave the last one."""
    block = BLOCKS[options.block]
    stages = []
    for index, (depth, width) in enumerate(zip(options.depths, options.widths, strict=True)):
        cells = []
        for position in range(depth):
            stride = 2 if index > 0 and position == 0 else 1
            cells.append(block(channels, width, stride, options))
            channels = width * block.expansion
        stages.append(nn.SequentialCell(cells))
    return stages, channels
