"""The parts ResNets are put together from. Tensors are NCHW; nothing here fixes a floating-point type."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from models.variants import ResNetOptions


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias; puts out ⌈size / stride⌉ pixels a side, padded alike on both."""
    # MindSpore's pad_mode="same" would pad only right and below with stride 2.
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        pad_mode="pad",
        padding=kernel // 2,
        group=groups,
        weight_init="zeros",  # models.init draws the values; the default would draw them twice
    )


def norm(channels: int, options: ResNetOptions, *, ends_branch: bool = False) -> nn.BatchNorm2d:
    """Batch normalisation as the options say; ``ends_branch`` marks the last one of a residual branch."""
    gamma = "zeros" if ends_branch and options.zero_init_last_gamma else "ones"
    return nn.BatchNorm2d(channels, eps=options.bn_eps, momentum=options.bn_momentum, gamma_init=gamma)


class SubsampleAndPad(nn.Cell):
    """Shortcut A of He et al. 2015: (N, in, H, W) → (N, out, ⌈H/stride⌉, ⌈W/stride⌉) without parameters.

    Takes every ``stride``-th pixel; the new channels, behind the old ones, are zero.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.subsample = _average(1, stride)  # a mean over one pixel, faster than the slice [::2, ::2]

    def construct(self, x: Tensor) -> Tensor:
        x = self.subsample(x)
        # Not ops.pad: in graph mode on a CPU its gradient is wrong from the second call on (MindSpore 2.10).
        zeros = ops.zeros((x.shape[0], self.new_channels, x.shape[2], x.shape[3]), x.dtype)
        return ops.concat((x, zeros), 1)


class Pooling(nn.Cell):
    """The operator ``pool``, which takes no bfloat16 on Ascend, forward or backward; float32 holds the same numbers.

    Not a layer of MindSpore's: automatic mixed precision would cast its input back to bfloat16.
    """

    def __init__(self, pool: ops.Primitive) -> None:
        super().__init__()
        self.pool = pool

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(x.astype(ms.float32)).astype(x.dtype) if x.dtype == ms.bfloat16 else self.pool(x)


def _average(kernel: int, stride: int) -> nn.Cell:
    """Mean over ``kernel``² pixels, at the border over those there are; nothing to do for stride 1."""
    return nn.Identity() if stride == 1 else Pooling(ops.AvgPool(kernel, stride, "same"))


def shortcut(in_channels: int, out_channels: int, stride: int, options: ResNetOptions) -> nn.Cell:
    """The identity where the shape stays, else what ``options.shortcut`` says."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if options.shortcut == "A":
        return SubsampleAndPad(in_channels, out_channels, stride)
    if options.shortcut == "B":
        return nn.SequentialCell(conv(in_channels, out_channels, 1, stride), norm(out_channels, options))
    # The first place is taken with stride 1 too, so that the other two have the names timm gives them.
    return nn.SequentialCell(_average(stride, stride), conv(in_channels, out_channels, 1), norm(out_channels, options))


class MaxPoolBehindReLU(nn.Cell):
    """3×3 max pooling with stride 2: (N, C, H, W), all ≥ 0 → (N, C, ⌈H/2⌉, ⌈W/2⌉), padded by 1 on each side.

    Behind a ReLU a border of zeros changes no maximum, and of equal pixels the first gets the gradient, as everywhere:
    values and gradients are those of ``nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)``. On Ascend, MindSpore 2.10 runs
    that layer on the device's AI CPU (and not at all in bfloat16), on the largest activation of the network; this one
    uses the operators of ``pad_mode="same"``, which run on the AI cores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pooling(ops.MaxPool(3, 2, "valid"))

    def construct(self, x: Tensor) -> Tensor:
        # A border only where the pooling reads it: below and right if the size is odd. Not ops.pad, as in the shortcut.
        rows = ops.zeros((x.shape[0], x.shape[1], 1, x.shape[3]), x.dtype)
        padded = ops.concat((rows, x, rows), 2) if x.shape[2] % 2 else ops.concat((rows, x), 2)
        columns = ops.zeros((x.shape[0], x.shape[1], padded.shape[2], 1), x.dtype)
        padded = ops.concat((columns, padded, columns), 3) if x.shape[3] % 2 else ops.concat((columns, padded), 3)
        return self.pool(padded)


class SqueezeExcite(nn.Cell):
    """Scales each channel by a gate computed from all channels' means (Hu et al. 2018); keeps the shape."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = _multiple_of_8(channels / reduction)
        self.fc1 = nn.Conv2d(channels, hidden, 1, has_bias=True, weight_init="zeros", bias_init="zeros")
        self.fc2 = nn.Conv2d(hidden, channels, 1, has_bias=True, weight_init="zeros", bias_init="zeros")
        self.relu = nn.ReLU()
        self.sigmoid = nn.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        gate = ops.mean(x, (2, 3), True)
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(gate))))


def _multiple_of_8(value: float) -> int:
    """The nearest multiple of 8 that is at least 8 (of two the larger), as in timm's gate (``round_limit=0``)."""
    return max(8, int(value + 4) // 8 * 8)
