"""Images in one folder a class: ``ROOT/train/<class>/*.jpg`` and ``ROOT/val/<class>/*.jpg``, as ImageNet is unpacked.

Opening lists names only; a file is read when its turn comes. Classes and files are in the order of their names, the
same on every machine. Folders inside a class folder are walked, and a root that holds the class folders themselves is
split.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from train.data.images import SUFFIXES, Stored, open_image
from train.data.of_files import read_file, split, with_validation
from train.data.options import DataConfig
from train.data.reader import Skips
from train.data.source import Sources, look_alike
from train.runtime.errors import UserError, refused

# Of ImageNet's training images, RGB; what recipes of the field use for photographs.
IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
EXPECTED = "ROOT/train/<class>/*.jpg and ROOT/val/<class>/*.jpg"
# What operating systems leave in folders, beside names that begin with a dot.
NOT_OF_THE_DATA = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
OTHER_NAMES_OF_VAL = ("test", "valid", "validation", "dev", "eval")

ClassOrder = str | Mapping[str, int]
"""``name``, ``natural`` (class2 before class10), or the number of each class by the name of its folder"""


def from_recipe(data: DataConfig, skips: Skips | None) -> Sources:
    """Return what the section ``data`` of a recipe describes."""
    return open_sources(data.root, hold_out=data.hold_out, skips=skips, order=data.classes)


def open_sources(
    root: str,
    *,
    hold_out: float = 0,
    skips: Skips | None = None,
    order: ClassOrder = "name",
) -> Sources:
    """Return the images below ``root``.

    Args:
        hold_out: where there is no ``val`` folder, how many of each class, or below 1 which fraction, to hold out: the
            last by name.
        skips: counts the files that are no images by their name, or allows none (the default).
        order: how classes are numbered.

    Raises:
        UserError: for another layout, an empty class, or different classes in ``train`` and ``val``.
    """
    folder = Path(root)
    if not os.path.isdir(folder / "train"):  # False, too, for what the system does not take for a path
        if not (hold_out and _with_images(_folders(folder))):
            raise UserError(f"data.root={root}: {_what_is_there(folder)}; expected: {EXPECTED}")
        return split(FolderSource.list_folder(folder, skips, order), hold_out)
    train = FolderSource.list_folder(folder / "train", skips, order)

    def open_val() -> FolderSource:
        validation = FolderSource.list_folder(folder / "val", skips, order)
        check_same_classes(train, validation)
        return validation

    instead = next((f", but {folder / name}; rename it" for name in OTHER_NAMES_OF_VAL if (folder / name).is_dir()), "")
    return with_validation(train, folder / "val", open_val, hold_out=hold_out, instead=instead)


class FolderSource:
    """The images of one part of a data set; a :class:`train.data.Source`.

    Names are held as one array of bytes: about 30 MB with the labels for ImageNet's 1.28 million files.
    """

    channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, folder: Path, class_names: Sequence[str], labels: np.ndarray, names: np.ndarray):
        self.folder = folder
        self.class_names: Sequence[str] = class_names
        self.labels = labels
        self.names = names
        self.num_classes = len(class_names)

    @classmethod
    def list_folder(cls, folder: Path, skips: Skips | None = None, order: ClassOrder = "name") -> FolderSource:
        """List the class folders of ``folder`` and their files; arguments as in :func:`open_sources`."""
        classes = in_order([one.name for one in _folders(folder)], order)
        if not classes:
            raise UserError(f"data.root: {folder} holds no class folders; expected: {EXPECTED}")
        names: list[bytes] = []
        counts = []
        above = frozenset(map(_identity, (folder, *folder.resolve().parents)))
        for one in classes:
            found = sorted(list_images(folder / one, skips or Skips(), above))
            if not found:
                raise UserError(f"data.root: the class folder {folder / one} holds no images; remove it")
            names += found
            counts.append(len(found))
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        return cls(folder, classes, labels, np.array(names))

    def subset(self, indices: np.ndarray) -> FolderSource:
        """Return the examples at ``indices``, in that order."""
        return FolderSource(self.folder, self.class_names, self.labels[indices], self.names[indices])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Stored:
        return open_image(self.encoded(index))

    def encoded(self, index: int) -> bytes:
        """Return the file as it is.

        Raises:
            UserError, StorageError: when it cannot be read. Unlike damage, that may pass: it is never skipped.
            BadImage: when it is not a regular file.
        """
        path = self._path(index)
        try:
            return read_file(path)
        except OSError as error:
            raise refused(error, f"{path}: cannot be read: {error.strerror}") from None

    def name(self, index: int) -> str:
        return str(self._path(index))

    def fingerprint(self) -> str:
        digest = blake2b("/".join(self.class_names).encode(errors="surrogateescape"), digest_size=8)
        digest.update(self.labels.tobytes())
        digest.update(self.names.tobytes())
        return digest.hexdigest()

    def _path(self, index: int) -> Path:
        return self.folder / self.class_names[self.labels[index]] / os.fsdecode(self.names[index])


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what ``folder`` holds, in any order, but for what is hidden and what operating systems leave."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        raise UserError(f"data.root={folder}: no such folder; expected: {EXPECTED}") from None
    except (OSError, ValueError) as error:  # a ValueError: a null byte in the name
        raise refused(error, f"data.root: cannot list {folder}: {getattr(error, 'strerror', error)}") from None
    return [entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in NOT_OF_THE_DATA]


def in_order(folders: list[str], order: ClassOrder) -> list[str]:
    """Return the names of the class folders, the first that of class 0.

    Raises:
        UserError: when ``order`` numbers other folders than those, or not from 0 without a gap.
    """
    forms: dict[str, str] = {}
    for name in folders:
        twin = forms.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            raise UserError(
                f"data.root: the class folders {twin!a} and {name!a} are the same letters in two Unicode forms (NFC, "
                "NFD): move the images of one into the other"
            )
    if order == "name":
        return sorted(folders)
    if order == "natural":
        return sorted(folders, key=_natural)
    assert isinstance(order, Mapping)
    different = sorted(set(order) ^ set(folders))
    if different:
        where = "but there is no such folder" if different[0] in order else "is missing"
        shown = different[0] if different[0].isascii() else ascii(different[0])  # NFC and NFD look alike
        raise UserError(f"data.classes: the class folder {shown} {where}; it has to number each of them")
    if sorted(order.values()) != list(range(len(order))):
        raise UserError(f"data.classes={dict(order)}: the numbers have to be 0 to {len(order) - 1}, each once")
    return sorted(folders, key=lambda name: order[name])


def _natural(name: str) -> tuple[list[int | str], str]:
    # Text and numbers in turn, text first, so that the same kinds meet.
    parts = enumerate(re.split(r"(\d+)", name))
    return [int(part) if place % 2 else part.lower() for place, part in parts], name


def list_images(folder: Path, skips: Skips, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[bytes]:
    """Yield the names of the files of one class, relative to its folder, those in folders inside it too."""
    own = _identity(folder)
    if own in above:
        return  # a link back up would be walked for ever, and what lies there is of other classes, too
    for entry in visible(folder):
        if entry.name.lower().endswith(SUFFIXES):
            yield os.fsencode(entry.name)
        elif os.path.isdir(entry):  # False for a link to itself, too
            inside = os.fsencode(entry.name)
            yield from (inside + b"/" + name for name in list_images(folder / entry.name, skips, above | {own}))
        else:
            skips.add(str(folder / entry.name), "not an image by its name")


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def check_same_classes(train: FolderSource, val: FolderSource) -> None:
    """Raise a :class:`UserError` that names a class which only one of both has."""
    for here, there in ((train, val), (val, train)):
        only = sorted(set(here.class_names) - set(there.class_names))
        if not only:
            continue
        twin = next((name for name in there.class_names if look_alike(name, only[0])), None)
        if twin is not None:
            raise UserError(
                f"data.root: class {only[0]!a} of {here.folder} is written {twin!a} in {there.folder}: the same "
                "letters in another Unicode form (NFC, NFD); rename one of them"
            )
        more = f" and {len(only) - 1} more" if len(only) > 1 else ""
        raise UserError(f"data.root: class {only[0]}{more} is in {here.folder} but not in {there.folder}")


def _folders(folder: Path) -> list[Path]:
    entries = visible(folder)
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry):
            raise UserError(
                f"data.root: {entry.path} is a broken link; if it is a class, that would be left out: "
                "repair or remove it"
            )
    return [folder / entry.name for entry in entries if entry.is_dir()]


def _with_images(folders: list[Path]) -> list[str]:
    """Return the names, in order, of those that hold an image themselves."""
    return sorted(one.name for one in folders if any(entry.name.lower().endswith(SUFFIXES) for entry in visible(one)))


def _what_is_there(root: Path) -> str:
    """Say what ``root``, which has no folder ``train``, holds instead."""
    folders, names = _folders(root), sorted(entry.name for entry in visible(root))
    if classes := _with_images(folders):
        found = f"class folders ({_some(classes)}) without train and val; data.hold_out would split them"
    else:
        found = f"no folder train; it holds {_some(names) or 'nothing'}"
    other = next((one for one in (root.parent, *folders) if os.path.isdir(one / "train")), None)
    return f"{found}; {other} has a folder train, set data.root={other}" if other else found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
