"""What every source of examples offers. It knows nothing of ranks, order, batches or augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class Facts(Protocol):
    """All that a network has to know of the images it is for."""

    num_classes: int
    channels: int
    """1 (grey) or 3 (RGB)"""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of values scaled to [0, 1]."""

    @property
    def std(self) -> tuple[float, ...]: ...


class Source(Facts, Protocol):
    """Labelled images that can be read one by one, in any order and from any thread."""

    labels: np.ndarray
    """int32, (len(self),)"""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Open one image; its pixels may still be encoded.

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
