"""Which models there are: a table of names and options, and the check of what a user asks for.

Plain Python on purpose: a configuration can be checked without importing MindSpore.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

STEMS = ("cifar", "imagenet", "deep")
SHORTCUTS = ("A", "B", "D")
BLOCKS = ("basic", "bottleneck")


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {value!r} is not allowed; give {allowed}")


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _positive_ints(name: str, value: object) -> tuple[int, ...]:
    """A tuple, also from the list a YAML file gives."""
    items = tuple(value) if isinstance(value, (tuple, list)) else ()
    valid = bool(items) and all(_is_positive_int(item) for item in items)
    _require(valid, name, value, "a list of whole numbers of 1 or more")
    return items


@dataclass(frozen=True)
class ResNetOptions:
    """Everything in which one ResNet differs from another, apart from its input and its classes.

    Raises:
        ValueError: an option has a value of the wrong type or not allowed; the message names both.
    """

    block: str
    """``basic`` (two 3×3 convolutions) or ``bottleneck`` (1×1, 3×3, 1×1), He et al. 2015, fig. 5."""
    depths: tuple[int, ...]
    """Residual blocks of each stage; every stage after the first starts with stride 2."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Base channels of each stage; a bottleneck puts out four times as many."""
    stem: str = "imagenet"
    """``imagenet``: 7×7 with stride 2, then max pooling; ``deep``: three 3×3 for the 7×7 (He et al. 2019,
    ResNet-C); ``cifar``: one 3×3 with stride 1 and no pooling."""
    shortcut: str = "B"
    """Where the shape changes. ``A``: every second pixel, new channels zero, no parameters; ``B``: 1×1
    convolution with stride (both He et al. 2015, section 3.3); ``D``: 2×2 average pooling, then 1×1
    convolution (He et al. 2019, ResNet-D)."""
    groups: int = 1
    """Groups of the bottleneck's 3×3 convolution (ResNeXt's cardinality, Xie et al. 2017)."""
    base_width: int = 64
    """Channels of one group of that convolution per 64 base channels."""
    se: bool = False
    """Squeeze-and-excitation at the end of every residual branch, reduction 16 (Hu et al. 2018)."""
    zero_init_last_gamma: bool = False
    """Start the last batch norm of every residual branch at gamma 0: every block starts as its shortcut
    (Goyal et al. 2017, section 5.1)."""
    bn_momentum: float = 0.9
    """Share of the old moving statistics that a step keeps (MindSpore's convention; PyTorch's 0.1)."""
    bn_eps: float = 1e-5
    """Added to the variance under the root."""

    def __post_init__(self) -> None:
        for name in ("depths", "widths"):
            object.__setattr__(self, name, _positive_ints(name, getattr(self, name)))
        for name, allowed in (("block", BLOCKS), ("stem", STEMS), ("shortcut", SHORTCUTS)):
            self._check(name, lambda value, allowed=allowed: value in allowed, f"one of {', '.join(allowed)}")
        for name in ("groups", "base_width"):
            self._check(name, _is_positive_int, "a whole number of 1 or more")
        for name in ("se", "zero_init_last_gamma"):
            self._check(name, lambda value: isinstance(value, bool), "true or false")
        for name in ("bn_momentum", "bn_eps"):
            self._check(name, _is_fraction, "a number between 0 and 1, such as 1.0e-5")
        count = len(self.widths)
        self._check("depths", lambda depths: len(depths) == count, f"{count} numbers, one for each of the widths")
        if self.shortcut == "A":
            rising = sorted(set(self.widths))
            self._check("widths", lambda widths: list(widths) == rising, "rising ones: shortcut A only adds channels")
        if self.stem == "deep":
            self._check("widths", lambda widths: widths[0] >= 2, "2 or more first, as the deep stem halves it")
        if self.block == "basic":
            for name, only in (("groups", 1), ("base_width", 64)):
                self._check(name, lambda value, only=only: value == only, f"{only}, or set block=bottleneck")
        least = -(-64 // min(self.widths))  # else a stage's 3×3 convolution has no channel at all
        self._check("base_width", lambda value: value >= least, f"{least} or more with widths {self.widths}")

    def _check(self, name: str, is_allowed: Callable[..., bool], allowed: str) -> None:
        value = getattr(self, name)
        _require(is_allowed(value), name, value, allowed)


def _imagenet(block: str, *depths: int, **options: object) -> ResNetOptions:
    return replace(ResNetOptions(block, depths), **options)  # type: ignore[arg-type]


def _cifar(depth: int) -> ResNetOptions:
    """He et al. 2015, section 4.2: depth 6n+2, n blocks in each of three stages, shortcut A."""
    blocks = (depth - 2) // 6
    return ResNetOptions("basic", (blocks,) * 3, (16, 32, 64), stem="cifar", shortcut="A")


_D = {"stem": "deep", "shortcut": "D"}

VARIANTS: dict[str, ResNetOptions] = {
    **{f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
    "resnet152": _imagenet("bottleneck", 3, 8, 36, 3),
    "resnet18d": _imagenet("basic", 2, 2, 2, 2, **_D),
    "resnet34d": _imagenet("basic", 3, 4, 6, 3, **_D),
    "resnet50d": _imagenet("bottleneck", 3, 4, 6, 3, **_D),
    "resnet101d": _imagenet("bottleneck", 3, 4, 23, 3, **_D),
    "resnet152d": _imagenet("bottleneck", 3, 8, 36, 3, **_D),
    "wide_resnet50_2": _imagenet("bottleneck", 3, 4, 6, 3, base_width=128),
    "resnext50_32x4d": _imagenet("bottleneck", 3, 4, 6, 3, groups=32, base_width=4),
    "seresnet50": _imagenet("bottleneck", 3, 4, 6, 3, se=True),
}


def list_models() -> list[str]:
    """The names ``create_model`` takes, in the table's order: CIFAR family first, then ImageNet family."""
    return list(VARIANTS)


def resolve(name: str, *, num_classes: int = 1000, in_channels: int = 3, **options: object) -> ResNetOptions:
    """Check a request for a model without building it and return its options.

    Raises:
        ValueError: unknown name or option (with near matches), or a value that is not allowed.
    """
    if name not in list_models():
        raise ValueError(f"model: unknown name {name!r}; {_near(name, VARIANTS)}")
    known = [field.name for field in fields(ResNetOptions)]
    for option in options:
        if option not in known:
            raise ValueError(f"{name}: unknown option {option!r}; {_near(option, known)}")
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        _require(_is_positive_int(value), argument, value, "a whole number of 1 or more")
    return replace(VARIANTS[name], **options)  # type: ignore[arg-type]


def _near(name: object, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
