"""Where examples come from (one file a source), what becomes of an image (:mod:`train.data.reader`) and in which order
ranks read them (:mod:`train.data.loader`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.data.augment import Own, build_augmentations, name_of
from train.data.example import form
from train.data.images import set_up_libraries
from train.data.options import SOURCES, DataConfig
from train.data.reader import Reader, Skips
from train.data.source import Facts, Sources, check
from train.data.view import View
from train.runtime.errors import UserError
from train.runtime.keys import import_from, is_reference, load_part, split_reference


class Readers(NamedTuple):
    """Both parts of a data set, ready to be read."""

    train: Reader
    validation: Reader


def open_readers(options: DataConfig) -> Readers:
    """Open the data set that the section ``data`` of a recipe describes, and prepare its images as it says.

    Raises:
        UserError: from the source, when its data is missing or damaged; for what cannot be done with its examples.
    """
    set_up_libraries()
    skips = Skips(options.bad_image_limit)
    sources = open_sources(options, skips)
    for number, (there, here) in enumerate(zip(*(source.class_names for source in sources), strict=False)):
        if there != here:
            raise UserError(
                f"data.source={options.source}: class {number} is {there!r} in training and {here!r} in validation; "
                "number the classes alike"
            )
    view = View(options.image_size, options.eval_resize or None, build_augmentations(options.augment), options.rules)
    collate = None
    if options.collate:
        reference, given = split_reference(options.collate)
        collate = functools.partial(load_part(reference, given, "data.collate", "examples"), **given)
    readers = Readers(*(Reader(source, view, skips, collate) for source in sources))
    _refuse(options, readers.train)
    if is_reference(options.source):
        for reader in readers:
            few = np.unique([0, len(reader) // 2, len(reader) - 1])
            reader.read(few, np.random.default_rng)
            reader.read(few)
    return readers


def open_sources(options: DataConfig, skips: Skips | None = None) -> Sources:
    """Return the parts of the data set as they are stored.

    A source of one's own is called with the section ``data`` and, by name, with ``data.options``.

    Args:
        skips: counts the files that are no images by their name; None: there may be none.
    """
    if options.source in SOURCES:
        return import_from(SOURCES[options.source])(options, skips)
    name = f"data.source={options.source}"
    sources = load_part(options.source, options.options, "data.source", "data")(options, **options.options)
    if not isinstance(sources, tuple) or len(sources) != 2:
        raise UserError(f"{name}: returns {form(sources)}; return train.data.source.Sources(train, validation)")
    for part, source in zip(("training", "validation"), sources, strict=True):
        check(source, f"{name}: {part}")
    return Sources(*sources)


def _refuse(options: DataConfig, reader: Reader) -> None:
    """Refuse what cannot be done with this source's examples."""
    channels, view = reader.source.channels, reader.view
    ours = [one for one in (view.crop, *view.augmentations) if one is not None and not isinstance(one, Own)]
    if ours and not reader.images:
        raise UserError(f"data.augment={options.augment}: these examples are no images; leave the key out")
    for one in ours:
        if one.moves == "refuse" and channels not in (1, 3):
            raise UserError(f"data.augment: {name_of(one)} is for grey and RGB images, these have {channels} channels")
        if one.moves == "refuse" and reader.maps:
            raise UserError(f"data.augment: {name_of(one)} cannot move the targets with the image; leave it out")
    for title, field in zip(reader.example.titles, reader.example.leaves, strict=True):
        if None in field.shape and not options.collate:
            raise UserError(
                f"data.source={options.source}: its {title} is {field}; data.collate has to name a function that "
                "brings the examples of a batch to one length"
            )


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
