"""Where examples come from (one file a source), what becomes of an image (:mod:`train.data.reader`) and in which order
ranks read them (:mod:`train.data.loader`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from train.data import image_folder, mindrecord
from train.data.arrays import open_cifar10, open_digits, open_synthetic
from train.data.augment import build_augmentations
from train.data.images import allow_text
from train.data.reader import Reader, Skips, View
from train.data.source import Facts, Source, Sources, check
from train.runtime.errors import UserError
from train.runtime.keys import load_reference

if TYPE_CHECKING:
    from train.data.options import DataConfig


class Readers(NamedTuple):
    """Both parts of a data set, ready to be read."""

    train: Reader
    validation: Reader


def open_readers(options: DataConfig) -> Readers:
    """Open the data set that the section ``data`` of a recipe describes, and prepare its images as it says.

    Raises:
        UserError: from the source, when its data is missing or damaged.
    """
    skips = Skips(options.bad_image_limit if options.on_bad_image == "skip" else None)
    allow_text(options.max_text)
    sources = open_sources(options, skips)
    _refuse_augmentations(options, sources.train)
    view = View(options.image_size, options.eval_resize or None, build_augmentations(options.augment), options.rules)
    return Readers(*(Reader(source, view, skips) for source in sources))


def open_sources(options: DataConfig, skips: Skips | None = None) -> Sources:
    """Return the parts of the data set as they are stored; a source of one's own is called with ``options``.

    Args:
        skips: counts the files that are no images by their name; None: there may be none.
    """
    hold_out = options.hold_out_per_class or options.hold_out
    openers: dict[str, Callable[[], Sources]] = {
        "digits": lambda: open_digits(options.image_size),
        "cifar10": lambda: open_cifar10(options.root, hold_out=hold_out),
        "image_folder": lambda: image_folder.open_sources(
            options.root, hold_out=hold_out, skips=skips, order=options.classes, allow_empty=options.allow_empty
        ),
        "mindrecord": lambda: mindrecord.open_sources(options.root, hold_out=hold_out),
        "synthetic": lambda: open_synthetic(
            options.image_size, examples=options.synthetic_examples, classes=options.synthetic_classes
        ),
    }
    if options.source in openers:
        return openers[options.source]()
    opener: Callable[[DataConfig], Sources] = load_reference(options.source, "data.source")
    sources = opener(options)
    for part, source in zip(("training", "validation"), sources, strict=True):
        check(source, f"data.source={options.source}: {part}")
    return sources


def _refuse_augmentations(options: DataConfig, source: Source) -> None:
    """Refuse what cannot be done with this source's examples."""
    if options.augment and not len(source.mean):
        raise UserError(f"data.augment={options.augment}: these examples are no images; leave the key out")
    for name in ("trivial_augment", "rand_augment"):
        if source.channels not in (1, 3) and any(name in entry for entry in options.augment):
            raise UserError(f"data.augment: {name} is for grey and RGB images, these have {source.channels} channels")


def statistics(options: DataConfig, source: Facts) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of each channel: the recipe's, else the source's.

    Raises:
        UserError: when the recipe's are not one number a channel.
    """
    for key in ("mean", "std"):
        given = getattr(options, key)
        if given and not len(source.mean):
            raise UserError(f"data.{key}={given}: these examples are no images and are not normalised; leave it out")
        if given and len(given) != source.channels:
            raise UserError(f"data.{key}={given}: one number a channel, the images have {source.channels}")
    return options.mean or source.mean, options.std or source.std
