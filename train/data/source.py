"""What every source of examples offers, and which of them are for validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, TypeVar

import numpy as np

from train.data.images import BadImage, Stored
from train.runtime import files
from train.runtime.errors import UserError

Targets = np.ndarray | tuple[np.ndarray, ...]


class Facts(Protocol):
    """All that a network has to know of the images it is for."""

    num_classes: int
    """where targets are no classes, what the model's function is to be told: how many outputs, mostly"""
    channels: int
    """1 (grey), 3 (RGB), or as many as arrays have"""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of values scaled to [0, 1]; empty for arrays that reach the model as they are."""

    @property
    def std(self) -> tuple[float, ...]: ...


class Source(Facts, Protocol):
    """Labelled examples that can be read one by one, in any order and from any thread."""

    class_names: Sequence[str]
    """of the classes 0, 1, …; empty where they are not known"""

    @property
    def labels(self) -> Targets:
        """int32, (len(self),): classes; or other targets, numbers (len(self), …), or a tuple of such arrays"""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Stored:
        """Open one image, as Pillow or :func:`train.data.images.open_image` does; its pixels may still be encoded.

        Or return an array: uint8 (height, width, channels) is an image, every other reaches the model as it is.

        Raises:
            train.data.images.BadImage: when it is no image; damage inside shows only when it is decoded.
        """

    def name(self, index: int) -> str:
        """Return what a message calls this example: its file, where it has one."""

    def fingerprint(self) -> str:
        """Return a short text that differs where the examples or their order differ; nothing is decoded for it."""


def read_file(path: Path) -> bytes:
    """Return what the file of an example holds.

    Raises:
        OSError: when it cannot be read, which may pass.
        BadImage: when it is no regular file, or far too large for an example.
    """
    try:
        return files.read_file(path)
    except files.NotAFile as error:
        raise BadImage(error.strerror) from None


class Sources(NamedTuple):
    """The training and the validation examples of one data set."""

    train: Source
    validation: Source


def check(source: Source, name: str) -> None:
    """Refuse a source of one's own that does not keep the contract of :class:`Source`; ``name`` is what messages say.

    Raises:
        UserError: with one line.
    """
    labels, classes = source.labels, source.num_classes
    for one in as_tuple(labels):
        if not isinstance(one, np.ndarray) or one.dtype.kind not in "biuf":
            kind = getattr(one, "dtype", type(one).__name__)
            raise UserError(f"{name} labels are {kind}; give an array of numbers, or a tuple of such arrays")
        if one.shape[:1] != (len(source),) or not len(source):
            raise UserError(f"{name} labels have the shape {one.shape} for {len(source)} images; one label each")
        if not np.isfinite(one).all():
            raise UserError(f"{name} labels hold values that are not finite")
    if are_classes(labels) and (labels.min() < 0 or labels.max() >= classes):
        hint = "; subtract 1" if labels.min() == 1 and labels.max() == classes else ""
        raise UserError(
            f"{name} labels are {labels.min()} to {labels.max()}; with {classes} classes they have to be 0 to "
            f"{classes - 1}{hint}"
        )
    first = source.image(0)
    if not isinstance(first, np.ndarray):
        if source.channels not in (1, 3):
            raise UserError(
                f"{name} images have {source.channels} channels; encoded ones have to be grey (1) or RGB (3), return "
                "others as arrays, uint8 (height, width, channels)"
            )
    elif first.dtype not in PASSED_ON:
        raise UserError(f"{name} arrays are {first.dtype}; give one of {', '.join(PASSED_ON)}")
    elif is_image(first) and (not len(source.mean) or first.shape[2] != source.channels):
        raise UserError(
            f"{name} images have the shape {first.shape}, height, width and channels, for {source.channels} channels "
            f"with the means {list(source.mean)}"
        )
    elif not is_image(first) and len(source.mean):
        raise UserError(
            f"{name} arrays ({first.dtype}, {first.shape}) are no images and not normalised; leave mean and std empty"
        )
    elif not np.isfinite(first).all():
        raise UserError(f"{name} arrays hold values that are not finite")


def are_classes(targets: Targets) -> TypeGuard[np.ndarray]:
    """Whether they are whole numbers, one for each example; the other targets are for a loss of the reader's own."""
    return isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu"


def as_tuple(arrays: Any) -> tuple[Any, ...]:
    return arrays if isinstance(arrays, tuple) else (arrays,)


def map_arrays(function: Callable[[Any], Any], arrays: Any) -> Any:
    """Return ``function`` of an array, or of each of a tuple of them."""
    return tuple(function(one) for one in arrays) if isinstance(arrays, tuple) else function(arrays)


PASSED_ON = ("uint8", "int32", "int64", "float16", "float32")


def is_image(one: object) -> bool:
    """Whether what a source returns is seen through a view; other arrays reach the model as they are."""
    return not isinstance(one, np.ndarray) or (one.dtype == np.uint8 and one.ndim == 3)


SourceType = TypeVar("SourceType", bound="Splittable")


class Splittable(Source, Protocol):
    """A source of classes that can be cut."""

    @property
    def labels(self) -> np.ndarray: ...

    def subset(self: SourceType, indices: np.ndarray) -> SourceType:
        """Return the examples at ``indices``, in that order."""


def with_validation(
    train: Splittable, val: Path, open_val: Callable[[], Source], *, hold_out: float = 0, instead: str = ""
) -> Sources:
    """Return ``train`` and the data set's own validation part, or cut one off where it has none.

    Args:
        val: where the data set's own part is, if it has one.
        hold_out: see :func:`last_of_each_class`; 0: none.
        instead: what stands in the place of ``val``, for the message.

    Raises:
        UserError: when there are both or neither.
    """
    if not hold_out:
        if not os.path.exists(val):
            raise UserError(
                f"data.root: no {val}{instead}; set data.hold_out_per_class (a number of images) or data.hold_out (a "
                "fraction) to hold out training images"
            )
        return Sources(train, open_val())
    if os.path.exists(val):
        key = "hold_out_per_class" if hold_out >= 1 else "hold_out"
        raise UserError(f"data.{key}={hold_out}: {val} exists; leave the key out to use it")
    return split(train, hold_out)


def split(train: Splittable, hold_out: float) -> Sources:
    """Cut the last examples of each class off, see :func:`last_of_each_class`."""
    keep, held_out = last_of_each_class(train.labels, hold_out, train.class_names)
    return Sources(train.subset(keep), train.subset(held_out))


def last_of_each_class(labels: np.ndarray, hold_out: float, names: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into (all but the last of each class, the last of each class), in order.

    Args:
        hold_out: how many of each class are its last; below 1: which fraction of them, but at least one example.

    Raises:
        UserError: when a class would have none left; it is named by ``names``, as far as there are.
    """
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = int(hold_out) if hold_out >= 1 else max(1, round(hold_out * len(members)))
        if len(members) <= count:
            key = "hold_out_per_class" if hold_out >= 1 else "hold_out"
            name = f"class {names[label]}" if label < len(names) else f"class number {label}"
            raise UserError(
                f"data.{key}={hold_out}: {name} has only {len(members)} example{'s' * (len(members) > 1)}, none would "
                "be left to train on"
            )
        held_out[members[-count:]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
