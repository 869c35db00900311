"""Where examples come from (one file a source) and how ranks share them (:mod:`train.data.loader`).

A source is anything with the members of :class:`Source`; it knows nothing of ranks, order or batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.errors import UserError, near_matches


class Source(Protocol):
    """Labelled images that can be read in any order."""

    num_classes: int
    channels: int
    mean: tuple[float, ...]
    """Mean of each channel, of values scaled to [0, 1]."""
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 images (len(indices), channels, height, width) and int32 labels (len(indices),)."""


class Sources(NamedTuple):
    """The training and the held-out examples of one data set."""

    train: Source
    held_out: Source


def open_sources(name: str, **options: Any) -> Sources:
    """Open the data set ``name`` with the options of its file's ``open``.

    Raises:
        UserError: for an unknown name, or from the source when its data is missing or damaged.
    """
    from train.data import digits

    openers: dict[str, Callable[..., Sources]] = {"digits": digits.open_sources}
    if name not in openers:
        raise UserError(f"data.source={name!r}: {near_matches(name, openers)}")
    return openers[name](**options)
