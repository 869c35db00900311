"""Read examples of a source into batches: each is held to what the source declares, changed as the view says, and
replaced where its file is damaged.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from train.data.augment import Own, alike
from train.data.example import Example, Field, Tree, as_array, form, leaves, map_leaves
from train.data.images import BadImage, Picture, to_planes
from train.data.source import Source, are_classes, declared_by
from train.data.view import View
from train.runtime.errors import UserError

log = logging.getLogger(__name__)


class Skips:
    """Counts the files that this rank leaves out, over all parts of the data set. Safe to use from several threads.

    Args:
        limit: how many may be; 0: none, and the message says how to change that.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self.count = 0
        self._lock = threading.Lock()

    def add(self, name: str, why: str) -> None:
        """Leave out the file ``name``, once for each file.

        Raises:
            UserError: when it may not be left out, or is one more than the limit; the message names it.
        """
        if not self.limit:
            raise UserError(
                f"{name}: {why}; repair or remove the file, or set data.bad_image_limit to how many may be skipped"
            )
        with self._lock:
            self.count += 1
            count = self.count
        if count > self.limit:
            raise UserError(
                f"{name}: {why}; data.bad_image_limit={self.limit} files were skipped on this rank before it"
            )
        log.warning("skipped %s: %s (%d of at most %d)", name, why, count, self.limit)


MakeRng = Callable[[int], np.random.Generator]
Collate = Callable[[list[Example]], Example]


class Batch(NamedTuple):
    """One rank's part of a batch: n examples, of each input and target an array with an axis of examples in front."""

    inputs: Tree
    """images are uint8 (n, channels, height, width); others (n, …) of their own type"""
    targets: Tree
    """classes are int32 (n,); others (n, …) of their own type"""
    indices: np.ndarray
    """int64, (n,): positions in the source; -1 marks padding"""

    @property
    def images(self) -> Any:
        """``inputs``, where they are one array of images."""
        return self.inputs

    @property
    def labels(self) -> Any:
        """``targets``, where they are classes."""
        return self.targets

    def part(self, places: slice) -> Batch:
        """Return the examples at ``places``, as views."""
        return Batch(*(map_leaves(lambda one: one[places], tree) for tree in self))


class Reader:
    """A source seen through a view. Safe to use from several threads.

    Args:
        skips: counts the images that cannot be decoded, or allows none (the default).
        collate: puts examples of different lengths together, see :meth:`finish`.

    A skipped training image is replaced by the next readable one of its class (in the source's order, from the last
    back to the first), augmented as the skipped one would have been. Which files are damaged is a property of the data,
    so the replacement depends on no rank, thread or earlier batch, and every rank keeps its number of updates. A
    skipped validation image becomes padding: it is left out of every metric, and the number of examples says so.

    Raises:
        UserError: when the source's examples cannot be read so.
    """

    def __init__(self, source: Source, view: View, skips: Skips | None = None, collate: Collate | None = None):
        self.source = source
        self.view = view
        self.skips = skips or Skips()
        self.collate = collate
        self.skipped: set[int] = set()
        """Positions that are left out from now on."""
        self._lock = threading.Lock()
        self._shapes: set[str] = set()
        self._take = _taking(source)
        self.declared = declared_by(source)
        fields, inputs = self.declared.leaves, len(leaves(self.declared.inputs))
        self.numbers = [i for i, field in enumerate(fields) if i >= inputs and field.is_class]
        """Which of the leaves are targets of one whole number, int32 in a batch."""
        self.classes = source.num_classes if are_classes(self.declared.targets) else 0
        """How many there are; 0 where targets are no classes."""
        self.images = [i for i, field in enumerate(fields[:inputs]) if len(source.mean) and field.is_image]
        """Which of the leaves are images, and seen through the view."""
        self.maps = [i for i, field in enumerate(fields) if i >= inputs and self._is_map(field)]
        """Which of them are targets that lie over the images, as masks do, and are moved with them."""
        size = self._size_of_images()
        for i in self.images:
            fields[i] = Field((*size, source.channels), np.uint8)
        for i in self.maps:
            fields[i] = Field((*fields[i].shape[:-2], *size), fields[i].dtype)
        self.seen = self.declared.holding(fields)
        """What one example looks like behind the view."""
        for i in self.images:
            fields[i] = Field((source.channels, *size), np.uint8)
        self.example = self.declared.holding([*fields[:inputs], *(field.batched for field in fields[inputs:])])
        """What one example looks like in a batch, where images are (channels, height, width)."""

    def _size_of_images(self) -> tuple[int | None, ...]:
        if not self.images or self.view.size:
            return (self.view.size, self.view.size)
        height, width, _ = self.declared.leaves[self.images[0]].shape
        if height is None or width is None:
            first = leaves(Example(*self._take(0, None)).inputs)[self.images[0]]
            width, height = Picture(first, self.view.rules).size
        return height, width

    def _is_map(self, field: Field) -> bool:
        if not (self.images and field.over_image and len(field.shape) > 1):
            return False
        of_image = self.declared.leaves[self.images[0]].shape[:2]
        return field.shape[-2:] in [(None, None), of_image, (self.view.size, self.view.size)]

    def __len__(self) -> int:
        return len(self.source)

    def new_batch(self, length: int) -> Batch:
        """Return a batch of padding, to be filled; nothing has been written to its inputs."""
        indices = np.full(length, -1, np.int64)
        if self.collate is not None:
            return Batch(np.empty(length, object), (), indices)  # whole examples, until they are put together
        inputs = map_leaves(lambda field: np.empty((length, *field.shape), field.dtype), self.example.inputs)
        return Batch(inputs, map_leaves(lambda field: field.blank(length), self.example.targets), indices)

    def blank_inputs(self, count: int) -> Tree:
        """Return the inputs of a batch of ``count`` examples in which nothing stands."""
        if self.collate is not None:
            return map_leaves(np.zeros_like, self.read(np.zeros(count, int)).inputs)
        return map_leaves(lambda field: np.zeros((count, *field.shape), field.dtype), self.example.inputs)

    def read(self, indices: np.ndarray, make_rng: MakeRng | None = None) -> Batch:
        """Return the examples at ``indices``, see :meth:`fill`."""
        batch = self.new_batch(len(indices))
        self.fill(batch, indices, make_rng)
        return self.finish(batch)

    def fill(self, batch: Batch, indices: np.ndarray, make_rng: MakeRng | None = None) -> None:
        """Read the examples at ``indices`` into the first places of ``batch``; what is left over becomes padding.

        Args:
            make_rng: returns the generator that augments the example at a position; None: they stay as they are.

        Raises:
            UserError: for an image that cannot be decoded, or one more than the limit; the message names the file. For
                an example that is not what the source declares.
        """
        for place, index in enumerate(indices.tolist()):
            batch.indices[place] = self._read(batch, place, index, make_rng)
        if self.collate is None:
            for array in leaves(batch.inputs):
                array[batch.indices < 0] = 0

    def finish(self, batch: Batch, *, tell: bool = False) -> Batch:
        """Put the examples of a filled batch together where a collate of the user's own does that.

        It gets a list of :class:`Example`, images as (channels, height, width), and returns one of arrays with an axis
        of as many examples in front. As many graphs are compiled as there are different shapes.

        Args:
            tell: log each shape that was not met before.
        """
        if self.collate is None:
            return batch
        known = batch.indices >= 0
        examples = list(batch.inputs[known])
        arrays = self._collated(examples or [self._planes(self._open(0, None))])
        for i, array in enumerate(arrays):
            arrays[i] = np.zeros((len(known), *array.shape[1:]), array.dtype)
            arrays[i][known] = array[: len(examples)]
        shapes = ", ".join(map(form, arrays))
        if tell and shapes not in self._shapes:
            self._shapes.add(shapes)
            log.warning("batches of %s: a graph is compiled for them, number %d", shapes, len(self._shapes))
        return Batch(*self.example.holding(arrays), batch.indices)

    def _collated(self, examples: list[Example]) -> list[np.ndarray]:
        assert self.collate is not None
        collated = self.collate(examples)
        try:
            arrays = self.example.leaves_of(collated)
        except ValueError as error:
            raise UserError(f"data.collate: what it returns {error}") from None
        for title, field, array in zip(self.example.titles, self.example.leaves, arrays, strict=True):
            wanted = Field((len(examples), *field.shape), field.dtype)
            if not isinstance(array, np.ndarray) or not wanted.fits(array):
                raise UserError(f"data.collate: the {title} of {len(examples)} examples is {form(array)}, not {wanted}")
        return arrays

    def _read(self, batch: Batch, place: int, index: int, make_rng: MakeRng | None) -> int:
        """Write an example to ``place`` and return the position that was read; -1 where it is left out."""
        for one in self._in_turn(index) if make_rng else [index]:
            try:
                if one not in self.skipped:
                    self._write(batch, place, self._open(one, make_rng(index) if make_rng else None))
                    return one
            except BadImage as error:
                self._skip(one, error)
        if make_rng is None:
            return -1
        raise UserError(f"{self.source.name(index)}: no image of its class can be decoded")

    def _open(self, index: int, rng: np.random.Generator | None) -> list[Any]:
        """Return the leaves of an example, seen through the view."""
        found = self._held(self._take(index, rng), self.declared, index, "the source declares")
        moved = [*self.images, *self.maps]
        if self.images:
            pictures = [Picture(found[i], self.view.rules) for i in self.images]
            cut = self.view.cut(pictures, [found[i] for i in self.maps], self.source.channels, rng)
            found = _replaced(found, moved, cut)
            self.view.say_once(pictures, self.source.name(index))
        if rng is None:
            return found
        for augmentation in self.view.augmentations:
            if isinstance(augmentation, Own):
                made = augmentation.function(self.seen.holding(found), rng, **augmentation.options)
                found = self._held(made, self.seen, index, f"{augmentation.reference} has to return")
            else:
                images, maps = [found[i] for i in self.images], [found[i] for i in self.maps]
                found = _replaced(found, moved, alike(augmentation, images, maps, rng))
        return found

    def _held(self, example: Any, declared: Example, index: int, who: str) -> list[Any]:
        """Return the leaves of an example.

        Raises:
            UserError: when it is not as ``declared``; the message names the example.
        """
        try:
            found = declared.leaves_of(example)
        except ValueError as error:
            raise UserError(f"{self.source.name(index)}: {error}, as {who}") from None
        for i, field in enumerate(declared.leaves):
            found[i] = leaf = as_array(found[i], field)
            if isinstance(leaf, np.ndarray | np.generic):
                fits = field.fits(leaf)
            else:
                fits = i in self.images and declared is self.declared  # it may be encoded
            if not fits:
                title = declared.titles[i]
                raise UserError(f"{self.source.name(index)}: its {title} is {form(leaf)}, and {who} {field}")
            if i in self.numbers and not -(2**31) <= leaf < 2**31:
                raise UserError(
                    f"{self.source.name(index)}: its {declared.titles[i]} is {leaf}, and one whole number is int32 in "
                    "a batch; give it the shape (1,), which keeps its dtype"
                )
        if self.classes and not 0 <= found[-1] < self.classes:
            raise UserError(
                f"{self.source.name(index)}: its class is {found[-1]}; with {self.classes} classes it has to be 0 to "
                f"{self.classes - 1}"
            )
        return found

    def _planes(self, found: list[Any]) -> Example:
        """Return an example as it is in a batch."""
        for i in self.images:
            found[i] = np.ascontiguousarray(found[i].transpose(2, 0, 1))
        fields = self.example.leaves
        return self.example.holding([np.asarray(a, field.dtype) for a, field in zip(found, fields, strict=True)])

    def _write(self, batch: Batch, place: int, found: list[Any]) -> None:
        if self.collate is not None:
            batch.inputs[place] = self._planes(found)
            return
        for i, array in enumerate((*leaves(batch.inputs), *leaves(batch.targets))):
            if i in self.images:
                to_planes(found[i], array[place])
            else:
                array[place] = found[i]

    def _in_turn(self, index: int) -> Iterator[int]:
        """Yield ``index`` and the others of its class, round from the last to the first; without classes all others."""
        yield index
        labels = getattr(self.source, "labels", None) if self.classes else None
        members = np.arange(len(self)) if labels is None else np.flatnonzero(labels == labels[index])
        yield from np.roll(members, -1 - int(np.searchsorted(members, index)))[:-1].tolist()

    def _skip(self, index: int, error: BadImage) -> None:
        with self._lock:  # two threads may meet it at once
            if index not in self.skipped:
                self.skips.add(self.source.name(index), str(error))
                self.skipped.add(index)


def _replaced(found: Sequence[Any], places: Sequence[int], new: tuple[list[Any], list[Any]]) -> list[Any]:
    """Return ``found`` with the images and maps ``new`` at ``places``."""
    changed = dict(zip(places, itertools.chain(*new), strict=True))
    return [changed.get(i, leaf) for i, leaf in enumerate(found)]


def _taking(source: Source) -> Callable[[int, np.random.Generator | None], Any]:
    """Return the function of a position and a generator that opens an example of ``source``."""
    read = getattr(source, "read", None)
    if read is None:
        labels = source.labels
        return lambda index, rng: (source.image(index), map_leaves(lambda one: one[index], labels))
    if len(inspect.signature(read).parameters) > 1:
        return cast(Callable[[int, np.random.Generator | None], Any], read)
    return lambda index, rng: read(index)
