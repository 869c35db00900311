"""Images in one folder a class: ``ROOT/train/<class>/*.jpg`` and ``ROOT/val/<class>/*.jpg``, as ImageNet is unpacked.

Opening lists names only; a file is read when its turn comes. Classes and files are in the order of their names, the
same on every machine.
"""

from __future__ import annotations

import logging
import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from train.data.images import open_image
from train.data.source import Sources
from train.data.split import with_held_out
from train.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (b".jpg", b".jpeg", b".png", b".bmp", b".webp")
# Of ImageNet's training images, RGB; what recipes of the field use for photographs.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_sources(root: str, *, hold_out_per_class: int = 0, skip_other_files: bool = False) -> Sources:
    """Return the images below ``root``.

    Args:
        skip_other_files: leave out files that are no images by their name, with a warning each, instead of stopping.
        hold_out_per_class: where there is no ``val`` folder, hold out this many of each class: the last by name.

    Raises:
        UserError: for a missing folder, an empty class, or different classes in ``train`` and ``val``.
    """
    train = FolderSource.list_folder(Path(root) / "train", skip_other_files)
    val = Path(root) / "val"

    def open_val() -> FolderSource:
        held_out = FolderSource.list_folder(val, skip_other_files)
        _check_same_classes(train, held_out)
        return held_out

    return with_held_out(train, val, open_val, hold_out_per_class=hold_out_per_class)


class FolderSource:
    """The images of one part of a data set; a :class:`train.data.Source`.

    Names are held as one array of bytes: about 40 MB for ImageNet's 1.28 million files.
    """

    channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, folder: Path, classes: list[str], labels: np.ndarray, names: np.ndarray):
        self.folder = folder
        self.classes = classes
        self.labels = labels
        self.names = names
        self.num_classes = len(classes)

    @classmethod
    def list_folder(cls, folder: Path, skip_other_files: bool = False) -> FolderSource:
        """List the class folders of ``folder`` and their files."""
        try:
            classes = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
        except OSError as error:
            raise UserError(f"data.root: cannot list {folder}: {error.strerror}") from None
        if not classes:
            raise UserError(f"data.root: {folder} holds no class folders")
        names: list[bytes] = []
        counts = []
        for one in classes:
            found = sorted(list_images(folder / one, skip_other_files))
            names += found
            counts.append(len(found))
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        return cls(folder, classes, labels, np.array(names))

    def subset(self, indices: np.ndarray) -> FolderSource:
        """Return the examples at ``indices``, in that order."""
        return FolderSource(self.folder, self.classes, self.labels[indices], self.names[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return open_image(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """Return the file as it is.

        Raises:
            UserError: when it cannot be read. Unlike damage, that may pass: it is never skipped.
        """
        path = self._path(index)
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None

    def name(self, index: int) -> str:
        return str(self._path(index))

    def fingerprint(self) -> str:
        digest = blake2b("/".join(self.classes).encode(errors="surrogateescape"), digest_size=8)
        digest.update(self.labels.tobytes())
        digest.update(self.names.tobytes())
        return digest.hexdigest()

    def _path(self, index: int) -> Path:
        return self.folder / self.classes[self.labels[index]] / os.fsdecode(self.names[index])


def list_images(folder: Path, skip_other_files: bool = False) -> list[bytes]:
    """Return the file names of one class; hidden files are passed over."""
    found = []
    for entry in os.scandir(os.fsencode(folder)):
        if entry.name.lower().endswith(SUFFIXES):
            found.append(entry.name)
        elif not entry.name.startswith(b"."):
            name = folder / os.fsdecode(entry.name)
            if not skip_other_files:
                raise UserError(f"{name}: not an image by its name; remove it or set data.on_bad_image=skip")
            log.warning("skipped %s: not an image by its name", name)
    if not found:
        raise UserError(f"data.root: the class folder {folder} holds no images")
    return found


def _check_same_classes(train: FolderSource, val: FolderSource) -> None:
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    for classes, here, there in ((only_train, train, val), (only_val, val, train)):
        if classes:
            more = f" and {len(classes) - 1} more" if len(classes) > 1 else ""
            raise UserError(f"data.root: class {classes[0]}{more} is in {here.folder} but not in {there.folder}")
