"""What every source of examples offers, and which of them are for validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from train.errors import UserError

if TYPE_CHECKING:
    from train.data.images import Stored


class Source(Protocol):
    """Labelled images that can be read one by one, in any order and from any thread."""

    num_classes: int
    channels: int
    """1 (grey) or 3 (RGB)"""
    labels: np.ndarray
    """int32, (len(self),)"""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of values scaled to [0, 1]."""

    @property
    def std(self) -> tuple[float, ...]: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Stored:
        """Open one image, as Pillow or :func:`train.data.images.open_image` does; its pixels may still be encoded.

        Raises:
            train.data.images.BadImage: when it is no image; damage inside shows only when it is decoded.
        """

    def name(self, index: int) -> str:
        """Return what a message calls this example: its file, where it has one."""

    def fingerprint(self) -> str:
        """Return a short text that differs where the examples or their order differ; nothing is decoded for it."""


class Sources(NamedTuple):
    """The training and the held-out examples of one data set."""

    train: Source
    held_out: Source


SourceType = TypeVar("SourceType", bound="Splittable")


class Splittable(Source, Protocol):
    """A source that can be cut."""

    def subset(self: SourceType, indices: np.ndarray) -> SourceType:
        """Return the examples at ``indices``, in that order."""


def with_held_out(
    train: Splittable, val: Path, open_val: Callable[[], Source], *, hold_out_per_class: int = 0
) -> Sources:
    """Return ``train`` and the data set's own held-out part, or cut one off where it has none.

    Args:
        val: where the data set's own part is, if it has one.
        hold_out_per_class: how many of each class to hold out, the last ones; 0: none.

    Raises:
        UserError: when there are both or neither.
    """
    if not hold_out_per_class:
        if not val.exists():
            raise UserError(f"data.root: no {val}; set data.hold_out_per_class to hold out training images")
        return Sources(train, open_val())
    if val.exists():
        raise UserError(f"data.hold_out_per_class={hold_out_per_class}: {val} exists; leave the key out to use it")
    keep, held_out = last_of_each_class(train.labels, hold_out_per_class)
    return Sources(train.subset(keep), train.subset(held_out))


def last_of_each_class(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into (all but the last ``count`` of each class, the last ``count`` of each class), in order.

    Raises:
        UserError: when a class has no more than ``count`` examples.
    """
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) <= count:
            raise UserError(
                f"data.hold_out_per_class={count}: class number {label} has only {len(members)} examples, "
                "none would be left to train on"
            )
        held_out[members[-count:]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
