"""Images in one folder a class: ``ROOT/train/<class>/*.jpg`` and ``ROOT/val/<class>/*.jpg``, as ImageNet is unpacked.

Opening lists names only; a file is read when its turn comes. Classes and files are in the order of their names, the
same on every machine.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np

from train.data.images import Stored, open_image
from train.data.reader import Skips
from train.data.source import Sources, with_held_out
from train.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Of ImageNet's training images, RGB; what recipes of the field use for photographs.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_sources(root: str, *, hold_out_per_class: int = 0, skips: Skips | None = None) -> Sources:
    """Return the images below ``root``.

    Args:
        hold_out_per_class: where there is no ``val`` folder, hold out this many of each class: the last by name.
        skips: counts the files that are no images by their name, or allows none (the default).

    Raises:
        UserError: for a missing folder, an empty class, or different classes in ``train`` and ``val``.
    """
    train = FolderSource.list_folder(Path(root) / "train", skips)
    val = Path(root) / "val"

    def open_val() -> FolderSource:
        held_out = FolderSource.list_folder(val, skips)
        check_same_classes(train, held_out)
        return held_out

    return with_held_out(train, val, open_val, hold_out_per_class=hold_out_per_class)


class FolderSource:
    """The images of one part of a data set; a :class:`train.data.Source`.

    Names are held as one array of bytes: about 30 MB with the labels for ImageNet's 1.28 million files.
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
    def list_folder(cls, folder: Path, skips: Skips | None = None) -> FolderSource:
        """List the class folders of ``folder`` and their files; ``skips`` as in :func:`open_sources`."""
        classes = sorted(entry.name for entry in visible(folder) if entry.is_dir())
        if not classes:
            raise UserError(f"data.root: {folder} holds no class folders")
        names: list[bytes] = []
        counts = []
        for one in classes:
            found = sorted(list_images(folder / one, skips or Skips()))
            names += found
            counts.append(len(found))
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        return cls(folder, classes, labels, np.array(names))

    def subset(self, indices: np.ndarray) -> FolderSource:
        """Return the examples at ``indices``, in that order."""
        return FolderSource(self.folder, self.classes, self.labels[indices], self.names[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Stored:
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


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what ``folder`` holds, in any order, but for hidden files and folders."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"data.root: cannot list {folder}: {error.strerror}") from None


def list_images(folder: Path, skips: Skips) -> list[bytes]:
    """Return the file names of one class."""
    found = []
    for entry in visible(folder):
        if entry.name.lower().endswith(SUFFIXES):
            found.append(os.fsencode(entry.name))
        else:
            skips.add(str(folder / entry.name), "not an image by its name")
    if not found:
        raise UserError(f"data.root: the class folder {folder} holds no images")
    return found


def check_same_classes(train: FolderSource, val: FolderSource) -> None:
    """Raise a :class:`UserError` that names a class which only one of both has."""
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    for classes, here, there in ((only_train, train, val), (only_val, val, train)):
        if classes:
            more = f" and {len(classes) - 1} more" if len(classes) > 1 else ""
            raise UserError(f"data.root: class {classes[0]}{more} is in {here.folder} but not in {there.folder}")
