"""Which models there are: a table of names and options, and the check of what a user asks for.

Plain Python on purpose: a configuration can be checked without importing MindSpore.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

MOST = 10_000_000
"""Of anything that is counted. A file or a recipe that says more is refused before memory is asked for."""
MOST_WEIGHTS = 1 << 32

# Each description follows "give" in the message about a value that is not allowed.
Count = Annotated[int, Field(ge=1, le=MOST, description=f"a whole number from 1 to {MOST:,}")]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MOST, strict=True)], ...],
    Field(  # YAML has lists, not tuples
        min_length=1, max_length=100, strict=False, description=f"a list of whole numbers from 1 to {MOST:,}"
    ),
]
Fraction = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1, such as 1.0e-5")]
Flag = Annotated[bool, Field(description="true or false")]
Block = Annotated[Literal["basic", "bottleneck"], Field(description="one of basic, bottleneck")]
Stem = Annotated[Literal["cifar", "imagenet", "deep"], Field(description="one of cifar, imagenet, deep")]
Shortcut = Annotated[Literal["A", "B", "D"], Field(description="one of A, B, D")]
STRICT = ConfigDict(strict=True)


@dataclass(frozen=True, config=STRICT)
class ResNetOptions:
    """Everything in which one ResNet differs from another, apart from its input and its classes."""

    block: Block
    """``basic`` (two 3×3 convolutions) or ``bottleneck`` (1×1, 3×3, 1×1), He et al. 2015, fig. 5."""
    depths: Counts
    """Residual blocks of each stage; every stage after the first starts with stride 2."""
    widths: Counts = (64, 128, 256, 512)
    """Base channels of each stage; a bottleneck puts out four times as many."""
    stem: Stem = "imagenet"
    """``imagenet``: 7×7 with stride 2, then max pooling; ``deep``: three 3×3 for the 7×7 (He et al. 2019,
    ResNet-C); ``cifar``: one 3×3 with stride 1 and no pooling."""
    shortcut: Shortcut = "B"
    """Where the shape changes. ``A``: every second pixel, new channels zero, no parameters; ``B``: 1×1
    convolution with stride (both He et al. 2015, section 3.3); ``D``: 2×2 average pooling, then 1×1
    convolution (He et al. 2019, ResNet-D)."""
    groups: Count = 1
    """Groups of the bottleneck's 3×3 convolution (ResNeXt's cardinality, Xie et al. 2017)."""
    base_width: Count = 64
    """Channels of one group of that convolution per 64 base channels."""
    se: Flag = False
    """Squeeze-and-excitation at the end of every residual branch, reduction 16 (Hu et al. 2018)."""
    zero_init_last_gamma: Flag = False
    """Start the last batch norm of every residual branch at gamma 0: every block starts as its shortcut
    (Goyal et al. 2017, section 5.1)."""
    bn_momentum: Fraction = 0.9
    """Fraction of the old moving statistics that a step keeps (MindSpore's convention; PyTorch's 0.1)."""
    bn_eps: Fraction = 1e-5
    """Added to the variance under the root."""

    def __post_init__(self) -> None:
        count = len(self.widths)
        if len(self.depths) != count:
            raise _not_allowed("depths", self.depths, f"{count} numbers, one for each of the widths")
        if self.shortcut == "A" and list(self.widths) != sorted(set(self.widths)):
            raise _not_allowed("widths", self.widths, "rising ones: shortcut A only adds channels")
        if self.stem == "deep" and self.widths[0] < 2:
            raise _not_allowed("widths", self.widths, "2 or more first, as the deep stem halves it")
        for name, only in (("groups", 1), ("base_width", 64)):
            if self.block == "basic" and getattr(self, name) != only:
                raise _not_allowed(name, getattr(self, name), f"{only}, or set block=bottleneck")
        least = -(-64 // min(self.widths))  # else a stage's 3×3 convolution has no channel at all
        if self.base_width < least:
            raise _not_allowed("base_width", self.base_width, f"{least} or more with widths {self.widths}")
        if sum(self.depths) > 1000:
            raise _not_allowed("depths", self.depths, "1,000 blocks at most in all")
        if self.least_weights > MOST_WEIGHTS:
            raise _not_allowed("widths", self.widths, f"less: with these depths {self.least_weights:,} weights")

    @property
    def least_weights(self) -> int:
        """How many weights it has at least: those of one 3×3 convolution a block, between channels of its stage."""
        inner = [width * self.base_width // 64 for width in self.widths]
        return sum(9 * depth * width * width * self.groups for depth, width in zip(self.depths, inner, strict=True))


@dataclass(frozen=True, config=STRICT)
class Sizes:
    """What the data decide of a model."""

    num_classes: Count = 1000
    in_channels: Count = 3


def _cifar(depth: int) -> ResNetOptions:
    """He et al. 2015, section 4.2: depth 6n+2, n blocks in each of three stages, shortcut A."""
    blocks = (depth - 2) // 6
    return ResNetOptions("basic", (blocks,) * 3, (16, 32, 64), stem="cifar", shortcut="A")


_IMAGENET = {
    "resnet18": ResNetOptions("basic", (2, 2, 2, 2)),
    "resnet34": ResNetOptions("basic", (3, 4, 6, 3)),
    "resnet50": ResNetOptions("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetOptions("bottleneck", (3, 4, 23, 3)),
    "resnet152": ResNetOptions("bottleneck", (3, 8, 36, 3)),
}

VARIANTS: dict[str, ResNetOptions] = {
    **{f"resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    **_IMAGENET,
    **{f"{name}d": replace(options, stem="deep", shortcut="D") for name, options in _IMAGENET.items()},
    "wide_resnet50_2": replace(_IMAGENET["resnet50"], base_width=128),
    "resnext50_32x4d": replace(_IMAGENET["resnet50"], groups=32, base_width=4),
    "seresnet50": replace(_IMAGENET["resnet50"], se=True),
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
    try:
        Sizes(num_classes=num_classes, in_channels=in_channels)
        resolved = replace(VARIANTS[name], **options)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _explain(error, {**options, "num_classes": num_classes, "in_channels": in_channels}) from None
    for size, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if count * min(resolved.widths[0], resolved.widths[-1]) > MOST_WEIGHTS:
            raise _not_allowed(size, count, f"fewer: with widths {resolved.widths} they take {MOST_WEIGHTS:,} weights")
    return resolved


def _explain(error: ValidationError, given: dict[str, Any]) -> ValueError:
    """The first mistake in our words."""
    problem = error.errors()[0]
    if problem["type"] == "value_error":  # from __post_init__, in our words already
        return problem["ctx"]["error"]
    name = str(problem["loc"][0])
    hints = get_type_hints(ResNetOptions, include_extras=True) | get_type_hints(Sizes, include_extras=True)
    return _not_allowed(name, given[name], hints[name].__metadata__[0].description)


def _not_allowed(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{name}: {value!r} is not allowed; give {allowed}")


def _near(name: object, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}"
