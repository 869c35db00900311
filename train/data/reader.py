"""Read examples of a source: which part of an image, at which size, changed how, and what happens where one is damaged.

A :class:`View` is a pure function of an image and a random generator. The generator of an example is made from (seed,
epoch, position in the data set), so neither the number of ranks or threads nor a resumed run changes a pixel.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from train.data.augment import Augmentation, RandomResizedCrop
from train.data.images import (
    DEFAULT_RULES,
    BadImage,
    Box,
    Picture,
    Rules,
    Stored,
    crop_and_resize,
    to_planes,
    without_fourth,
)
from train.data.source import Source, Targets, are_classes, as_tuple, is_image, map_arrays
from train.runtime.errors import UserError

log = logging.getLogger(__name__)


class Skips:
    """Counts the files that this rank leaves out, over all parts of the data set. Safe to use from several threads.

    Args:
        limit: how many may be; None: none, and the message says how to change that.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.count = 0
        self._lock = threading.Lock()

    def add(self, name: str, why: str) -> None:
        """Leave out the file ``name``, once for each file.

        Raises:
            UserError: when it may not be left out, or is one more than the limit; the message names it.
        """
        if self.limit is None:
            raise UserError(f"{name}: {why}; repair or remove the file, or set data.on_bad_image=skip")
        with self._lock:
            self.count += 1
            count = self.count
        if count > self.limit:
            raise UserError(
                f"{name}: {why}; data.bad_image_limit={self.limit} files were skipped on this rank before it"
            )
        log.warning("skipped %s: %s (%d of at most %d)", name, why, count, self.limit)


class View:
    """Bring an image to uint8 (size, size, channels).

    In training (a generator is given) the augmentations are applied in their order; without a random resized crop
    among them, and in evaluation, the image is taken whole: its shorter side becomes ``shorter_side`` pixels and the
    centre is cut out.

    Args:
        size: height and width of the result in pixels; None leaves images as they are.
        shorter_side: see above; None means ``size``.
        augmentations: applied in training only.
        rules: how an image is read.
    """

    def __init__(
        self,
        size: int | None = None,
        shorter_side: int | None = None,
        augmentations: Sequence[Augmentation] = (),
        rules: Rules = DEFAULT_RULES,
    ):
        self.size = size
        self.rules = rules
        self._said: set[str] = set()
        self.centre = size / shorter_side if size and shorter_side else 1.0
        """In evaluation, the side of what is cut out as a fraction of the shorter side."""
        self.crop = next((one for one in augmentations if isinstance(one, RandomResizedCrop)), None)
        self.augmentations = [one for one in augmentations if one is not self.crop]

    def __call__(self, image: Picture | Stored, channels: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Return the image as uint8 (height, width, channels).

        Raises:
            BadImage: when the pixels cannot be decoded.
        """
        picture = image if isinstance(image, Picture) else Picture(image, self.rules)
        if self.size is None:
            pixels = without_fourth(picture.pixels(channels), channels)
        else:
            pixels = crop_and_resize(picture, self.box(picture.size, rng), self.size, channels)
        if rng is not None:
            for augmentation in self.augmentations:
                pixels = augmentation(pixels, rng)
        return pixels

    def say_once(self, picture: Picture, name: str) -> None:
        """Warn, once for each kind, of what the recipe may want otherwise; ``name`` is the first image's."""
        if picture.orientation > 1 and "orientation" not in self._said:
            self._said.add("orientation")
            done, other = ("are turned", "ignore") if self.rules.upright else ("stay as stored", "apply")
            log.warning(
                "%s has the EXIF orientation %d: such images %s; data.orientation=%s changes that",
                name, picture.orientation, done, other,
            )  # fmt: skip
        if picture.has_profile and "profile" not in self._said:
            self._said.add("profile")
            log.warning(
                "%s has a colour profile that is not sRGB: such images are read as if they were sRGB; convert them if "
                "their exact colours matter", name,
            )  # fmt: skip
        if picture.transparent and "background" not in self._said:
            self._said.add("background")
            colour = self.rules.background
            log.warning(
                "%s is transparent in places: %s; data.background changes that", name,
                f"they get the colour {colour}" if colour else "they keep the colours stored there, often black",
            )  # fmt: skip

    def box(self, size: tuple[int, int], rng: np.random.Generator | None = None) -> Box:
        """Return which part of an image of ``size`` (width, height) is taken."""
        if rng is not None and self.crop is not None:
            return self.crop.box(*size, rng)
        return centre_box(*size, self.centre if rng is None else 1.0)


def centre_box(width: int, height: int, fraction: float) -> Box:
    """Return the centred square whose side is ``fraction`` of the shorter side."""
    side = min(width, height) * fraction
    left, upper = (width - side) / 2, (height - side) / 2
    return (left, upper, left + side, upper + side)


MakeRng = Callable[[int], np.random.Generator]


def padding_of(targets: np.ndarray, length: int) -> np.ndarray:
    """Return what stands for the targets of padding, -1 for a class: float64 becomes float32, as devices have it."""
    if are_classes(targets):
        return np.full(length, -1, np.int32)
    dtype = np.dtype(np.float32) if targets.dtype == np.float64 else targets.dtype
    return np.zeros((length, *targets.shape[1:]), dtype)


class Batch(NamedTuple):
    """One rank's part of a batch."""

    images: np.ndarray
    """uint8, (n, channels, height, width); of a source of other arrays (n, …), of their type"""
    labels: Targets
    """int32, (n,); of a source of other targets (n, …), of their type, or a tuple of such arrays"""
    indices: np.ndarray
    """int64, (n,): positions in the source; -1 marks padding"""

    def part(self, places: slice) -> Batch:
        """Return the examples at ``places``, as views."""
        return Batch(self.images[places], map_arrays(lambda one: one[places], self.labels), self.indices[places])


class Reader:
    """A source seen through a view. Safe to use from several threads.

    Args:
        skips: counts the images that cannot be decoded, or allows none (the default).

    A skipped training image is replaced by the next readable one of its class (in the source's order, from the last
    back to the first), augmented as the skipped one would have been. Which files are damaged is a property of the data,
    so the replacement depends on no rank, thread or earlier batch, and every rank keeps its number of updates. A
    skipped validation image becomes padding: it is left out of every metric, and the number of examples says so.
    """

    def __init__(self, source: Source, view: View, skips: Skips | None = None):
        self.source = source
        self.view = view
        self.skips = skips or Skips()
        self.skipped: set[int] = set()
        """Positions that are left out from now on."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def new_batch(self, length: int) -> Batch:
        """Return a batch of padding, to be filled; nothing has been written to its images."""
        shape, dtype = self.example
        labels = map_arrays(lambda one: padding_of(one, length), self.source.labels)
        return Batch(np.empty((length, *shape), dtype), labels, np.full(length, -1, np.int64))

    @functools.cached_property
    def example(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of one example."""
        size, channels = self.view.size, self.source.channels
        if size and len(self.source.mean):
            return (channels, size, size), np.dtype(np.uint8)
        first = self.source.image(0)
        if isinstance(first, np.ndarray) and not is_image(first):
            return first.shape, first.dtype
        width, height = (size, size) if size else Picture(first, self.view.rules).size
        return (channels, height, width), np.dtype(np.uint8)

    def read(self, indices: np.ndarray, make_rng: MakeRng | None = None) -> Batch:
        """Return the examples at ``indices``, see :meth:`fill`."""
        batch = self.new_batch(len(indices))
        self.fill(batch, indices, make_rng)
        return batch

    def fill(self, batch: Batch, indices: np.ndarray, make_rng: MakeRng | None = None) -> None:
        """Read the examples at ``indices`` into the first places of ``batch``; what is left over becomes padding.

        Args:
            make_rng: returns the generator that augments the example at a position; None: they stay as they are.

        Raises:
            UserError: for an image that cannot be decoded, or one more than the limit; the message names the file.
        """
        for place, index in enumerate(indices.tolist()):
            found = self._read(batch.images[place : place + 1], index, make_rng)
            if found >= 0:
                batch.indices[place] = found
                for target, of_all in zip(as_tuple(batch.labels), as_tuple(self.source.labels), strict=True):
                    target[place] = of_all[found]
        batch.images[batch.indices < 0] = 0

    def _read(self, place: np.ndarray, index: int, make_rng: MakeRng | None) -> int:
        """Write an example to ``place``, (1, …), and return the position that was read; -1 where it is left out."""
        if self._try(place, index, make_rng(index) if make_rng else None):
            return index
        if make_rng is None:
            return -1
        for other in self._others_of_its_class(index):
            if self._try(place, other, make_rng(index)):
                return other
        raise UserError(f"{self.source.name(index)}: no image of its class can be decoded")

    def _try(self, place: np.ndarray, index: int, rng: np.random.Generator | None) -> bool:
        """Write an example to ``place``; False where it is skipped."""
        if index in self.skipped:
            return False
        try:
            stored = self.source.image(index)
            if isinstance(stored, np.ndarray) and not is_image(stored):
                place[0] = stored
                return True
            picture = Picture(stored, self.view.rules)
            pixels = self.view(picture, self.source.channels, rng)
        except BadImage as error:
            self._skip(index, error)
            return False
        if picture.orientation > 1 or picture.transparent or picture.has_profile:
            self.view.say_once(picture, self.source.name(index))
        to_planes(pixels, place[0])
        return True

    def _others_of_its_class(self, index: int) -> list[int]:
        """Return those that follow ``index``, round from the last to the first; without classes all are of one."""
        labels = self.source.labels
        members = np.flatnonzero(labels == labels[index]) if are_classes(labels) else np.arange(len(self))
        return np.roll(members, -1 - int(np.searchsorted(members, index)))[:-1].tolist()

    def _skip(self, index: int, error: BadImage) -> None:
        with self._lock:  # two threads may meet it at once
            if index not in self.skipped:
                self.skips.add(self.source.name(index), str(error))
                self.skipped.add(index)
