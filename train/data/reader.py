"""Read examples of a source through a view, and decide what happens where one cannot be decoded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from train.data.images import BadImage
from train.data.source import Source
from train.data.views import View
from train.errors import UserError

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """One rank's part of a batch."""

    images: np.ndarray
    """uint8, (n, channels, height, width)"""
    labels: np.ndarray
    """int32, (n,); -1 marks padding"""
    indices: np.ndarray
    """int64, (n,): positions in the source; -1 marks padding"""

    def padded(self, length: int) -> Batch:
        """Return the batch filled up to ``length`` examples with padding."""
        missing = length - len(self.labels)
        if not missing:
            return self
        return join(
            [
                self,
                Batch(
                    np.zeros((missing, *self.images.shape[1:]), self.images.dtype),
                    np.full(missing, -1, self.labels.dtype),
                    np.full(missing, -1, self.indices.dtype),
                ),
            ]
        )


def join(parts: Sequence[Batch]) -> Batch:
    """Put the parts of a batch together."""
    return parts[0] if len(parts) == 1 else Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Reader:
    """A source seen through a view. Safe to use from several threads.

    Args:
        skip_limit: None: an image that cannot be decoded raises. A number: such images are skipped, each is logged,
            and this many different ones are allowed.

    A skipped training image is replaced by the next readable one of its class (in the source's order, from the last
    back to the first), augmented as the skipped one would have been. Which files are damaged is a property of the data,
    so the replacement depends on no rank, thread or earlier batch, and every rank keeps its number of updates. A
    skipped held-out image becomes padding: it is left out of every metric, and the number of examples says so.
    """

    def __init__(self, source: Source, view: View, skip_limit: int | None = None):
        self.source = source
        self.view = view
        self.skip_limit = skip_limit
        self.skipped: dict[int, str] = {}
        """Why each skipped position was skipped."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray, rngs: Sequence[np.random.Generator] | None = None) -> Batch:
        """Return the examples at ``indices``, augmented with one generator each (training), or as they are.

        Raises:
            UserError: for an image that cannot be decoded, or one more than the limit; the message names the file.
        """
        held = [self._example(index, rngs[i] if rngs else None) for i, index in enumerate(indices.tolist())]
        found = np.array([index for index, _ in held], np.int64)
        readable = [image for _, image in held if image is not None]
        size = self.view.size or 1
        shape = readable[0].shape if readable else (self.source.channels, size, size)
        images = np.zeros((len(held), *shape), np.uint8)
        for place, (_, image) in zip(images, held, strict=True):
            if image is not None:
                place[:] = image
        return Batch(images, np.where(found >= 0, self.source.labels[found], -1).astype(np.int32), found)

    def _example(self, index: int, rng: np.random.Generator | None) -> tuple[int, np.ndarray | None]:
        """Return the position that was read, and its image; -1 and None where it is left out."""
        for candidate in self._candidates(index) if rng is not None else [index]:
            if candidate in self.skipped:
                continue
            try:
                image = self.view(self.source.image(candidate), self.source.channels, rng)
            except BadImage as error:
                self._skip(candidate, error)
            else:
                return candidate, image
        if rng is not None:
            raise UserError(f"{self.source.name(index)}: no image of its class can be decoded")
        return -1, None

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield ``index``, then the others of its class that follow it."""
        yield index
        members = np.flatnonzero(self.source.labels == self.source.labels[index])
        yield from np.roll(members, -1 - int(np.searchsorted(members, index)))[:-1].tolist()

    def _skip(self, index: int, error: BadImage) -> None:
        name = self.source.name(index)
        if self.skip_limit is None:
            raise UserError(f"{name}: {error}; repair or remove the file, or set data.on_bad_image=skip") from None
        with self._lock:
            if index in self.skipped:
                return
            self.skipped[index] = str(error)
            count = len(self.skipped)
        if count > self.skip_limit:
            raise UserError(
                f"{name}: {error}; data.bad_image_limit={self.skip_limit} files were skipped on this rank before it"
            )
        log.warning("skipped %s: %s (%d of at most %d)", name, error, count, self.skip_limit)
