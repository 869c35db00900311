"""What every source of examples offers, and which of them are for validation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.data.example import Example, Field, Tree, form, leaves, map_leaves
from train.runtime.errors import UserError


class Facts(Protocol):
    """What a network has to know of the examples it is for."""

    num_classes: int
    """where targets are no classes, what the model's function is to be told: how many outputs, mostly"""
    channels: int
    """1 (grey), 3 (RGB), or as many as arrays have"""

    mean: tuple[float, ...] = ()
    """of each channel, of values scaled to [0, 1]; empty where inputs reach the model as they are"""
    std: tuple[float, ...] = ()


class Source(Facts, Protocol):
    """Examples that can be read one by one, in any order and from any thread.

    Inputs and targets are arrays, or a tuple or mapping of them. They are given in one of two ways: by ``image`` and
    ``labels``, whose shapes and dtypes are looked up; or by ``example``, which declares these, and a method
    ``read(index)``, or ``read(index, generator)``, that returns (inputs, targets). The generator is None in evaluation;
    in training it belongs to the example and its epoch, so what is drawn from it is the same after a resume. Inputs
    that are images may be encoded, as :func:`train.data.images.open_image` returns them.

    A class of a user's own needs not derive from this one; if it does, it has its defaults.
    """

    channels: int = 1
    class_names: Sequence[str] = ()
    """of the classes 0, 1, …; empty where they are not known"""

    labels: Tree
    """int32, (len(self),): classes; or other targets, numbers (len(self), …), or a tuple or mapping of them"""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Any:
        """Open one image; or return an array, a tuple or a mapping of arrays.

        uint8 (height, width, channels) is an image; arrays of other kinds reach the model as they are.

        Raises:
            train.data.images.BadImage: when it is no image; damage inside shows only when it is decoded.
        """

    def name(self, index: int) -> str:
        """Return what a message calls this example: its file, where it has one."""
        return f"example {index}"

    def fingerprint(self) -> str:
        """Return a short text that differs where the examples or their order differ; nothing is decoded for it."""


def look_alike(name: str, other: str) -> bool:
    """Whether two names are other characters for the same letters: é, and e with an accent."""
    return name != other and unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)


class Sources(NamedTuple):
    """The training and the validation examples of one data set."""

    train: Source
    validation: Source


MEMBERS = ("num_classes", "channels", "mean", "std", "class_names", "name", "fingerprint", "__len__")
UNDEFINED = (Source.__len__, Source.image, Source.fingerprint)
"""Of these what :class:`Source` itself has is no default."""
PASSED_ON = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32")


def check(source: Source, name: str) -> None:
    """Refuse a source of one's own that does not keep the contract of :class:`Source`; ``name`` is what messages say.

    Raises:
        UserError: with one line.
    """
    reads = hasattr(source, "read")
    for member in (*MEMBERS, *(("example",) if reads else ("image", "labels"))):
        found = getattr(type(source), member, getattr(source, member, None))
        if found is None or any(found is one for one in UNDEFINED):
            raise UserError(f"{name} is a {type(source).__name__} without {member}; see train.data.source.Source")
    if not len(source):
        raise UserError(f"{name} has no examples")
    if not reads:
        _check_labels(source, name)
    declared = declared_by(source)
    for title, field in zip(declared.titles, declared.leaves, strict=True):
        if not isinstance(field, Field):
            raise UserError(f"{name} declares {form(field)} as its {title}; give a train.data.example.Field")
    inputs = leaves(declared.inputs)
    for field in inputs:
        if field.dtype.name not in PASSED_ON:
            raise UserError(f"{name} arrays are {field.dtype}; give one of {', '.join(PASSED_ON)}")
    _check_images([field for field in inputs if field.is_image], source, name)


def _check_labels(source: Source, name: str) -> None:
    for one in leaves(source.labels):
        if not isinstance(one, np.ndarray) or one.dtype.kind not in "biuf":
            kind = getattr(one, "dtype", type(one).__name__)
            raise UserError(f"{name} labels are {kind}; give an array of numbers, or a tuple or mapping of such arrays")
        if one.shape[:1] != (len(source),):
            raise UserError(f"{name} labels have the shape {one.shape} for {len(source)} examples; one label each")
        if not np.isfinite(one).all():
            raise UserError(f"{name} labels hold values that are not finite")
    if are_classes(declared_by(source).targets):
        least, most, classes = source.labels.min(), source.labels.max(), source.num_classes
        if least < 0 or most >= classes:
            hint = "; subtract 1" if (least, most) == (1, classes) else ""
            raise UserError(
                f"{name} labels are {least} to {most}; with {classes} classes they have to be 0 to {classes - 1}{hint}"
            )


def _check_images(images: list[Field], source: Source, name: str) -> None:
    channels, mean = source.channels, list(source.mean)
    if not len(mean) == len(source.std) or len(mean) not in (0, channels):
        raise UserError(f"{name} has mean {mean} and std {list(source.std)} for {channels} channels; one number each")
    if mean and not images:
        raise UserError(f"{name} inputs are no images and not normalised; leave mean and std empty")
    for field in images:
        if not mean or field.shape[2] != channels:
            raise UserError(
                f"{name} images are {field}, height, width and channels, for {channels} channels with the means "
                f"{mean}; give mean and std of each channel"
            )


def declared_by(source: Source) -> Example:
    """Return what the source declares of its examples, or what its labels and, if no image, its first input are."""
    declared: Example | None = getattr(source, "example", None)
    if declared is not None:
        return Example(*declared)
    targets = map_leaves(lambda one: Field(one.shape[1:], one.dtype), source.labels)
    if len(source.mean):
        return Example(Field((None, None, source.channels), np.uint8), targets)
    return Example(map_leaves(_field_of, source.image(0)), targets)


def _field_of(array: Any) -> Field:
    if not isinstance(array, np.ndarray | np.generic):
        raise UserError(f"an image is {form(array)}; where images are encoded, its source gives mean and std")
    return Field(array.shape, array.dtype)


def are_classes(targets: Tree) -> bool:
    """Whether declared targets are one whole number; all others are for a loss of the user's own."""
    return isinstance(targets, Field) and targets.is_class
