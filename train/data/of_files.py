"""What the sources of files share: how a file is read, and which examples are held out where there are none for
validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from train.data.images import BadImage
from train.data.source import Source, Sources
from train.runtime import files
from train.runtime.errors import UserError


def read_file(path: Path) -> bytes:
    """Return what the file of an example holds.

    Raises:
        OSError: when it cannot be read, which may pass.
        BadImage: when it is not a regular file, or far too large for an example.
    """
    try:
        return files.read_file(path)
    except files.NotAFile as error:
        raise BadImage(error.strerror) from None


SourceType = TypeVar("SourceType", bound="Splittable")


class Splittable(Source, Protocol):
    """A source of classes that can be cut."""

    labels: np.ndarray

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
                f"data.root: no {val}{instead}; set data.hold_out to hold out training images: a number of "
                "each class, or a fraction"
            )
        return Sources(train, open_val())
    if os.path.exists(val):
        raise UserError(f"data.hold_out={hold_out:g}: {val} exists; leave the key out to use it")
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
            name = f"class {names[label]}" if label < len(names) else f"class number {label}"
            raise UserError(
                f"data.hold_out={hold_out:g}: {name} has only {len(members)} example{'s' * (len(members) > 1)}, none "
                "would be left to train on"
            )
        held_out[members[-count:]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
