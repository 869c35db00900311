"""Image folders: what is listed, what is held out, and what is said about damage."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data import image_folder
from train.data.loader import TrainLoader
from train.data.reader import Reader, Skips, View
from train.errors import UserError

SIZE = 8


def deep_png() -> bytes:
    """A grey image of 16 bits a pixel."""
    file = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 1000, np.uint16)).save(file, "PNG")
    return file.getvalue()


def jpeg(value: int, mode: str = "RGB", size: tuple[int, int] = (SIZE, SIZE)) -> bytes:
    """An encoded image of one brightness."""
    file = io.BytesIO()
    Image.new("L", size, value).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def fill(root: Path, part: str = "train", classes: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> None:
    """Write ``count`` images a class, of brightness 100 * class + 10 * number."""
    for label, name in enumerate(classes):
        (root / part / name).mkdir(parents=True)
        for number in range(count):
            (root / part / name / f"{number:03}.jpg").write_bytes(jpeg(100 * label + 10 * number))


def reader(root: Path, skip_limit: int | None = None, hold_out: int = 1) -> Reader:
    skips = Skips(skip_limit)
    sources = image_folder.open_sources(str(root), hold_out_per_class=hold_out, skips=skips)
    return Reader(sources.train, View(SIZE), skips)


def test_the_last_of_each_class_are_held_out(tmp_path: Path) -> None:
    fill(tmp_path)
    train, held_out = image_folder.open_sources(str(tmp_path), hold_out_per_class=2)
    assert [Path(held_out.name(i)).name for i in range(4)] == ["004.jpg", "005.jpg"] * 2
    assert held_out.labels.tolist() == [0, 0, 1, 1]
    assert len(train) == 8 and train.num_classes == held_out.num_classes == 2
    images, labels, _ = Reader(train, View(SIZE)).read(np.arange(8))
    assert images.shape == (8, 3, SIZE, SIZE) and images.dtype == np.uint8 and labels.dtype == np.int32
    expected = [100 * label + 10 * number for label in (0, 1) for number in range(4)]
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=2)


def test_a_val_folder_is_the_held_out_part(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, "val", count=3)
    sources = image_folder.open_sources(str(tmp_path))
    assert (len(sources.train), len(sources.held_out)) == (12, 6)
    assert "val" in sources.held_out.name(0)
    with pytest.raises(UserError, match=r"data\.hold_out_per_class=2: .*val exists"):
        image_folder.open_sources(str(tmp_path), hold_out_per_class=2)


def test_listing_opens_no_file(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"")
    assert len(image_folder.open_sources(str(tmp_path), hold_out_per_class=1).train) == 10


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    """As a notebook's .ipynb_checkpoints, which would move every label by one."""
    fill(tmp_path, classes=(".hidden", "cat", "dog"))
    assert image_folder.open_sources(str(tmp_path), hold_out_per_class=1).train.classes == ["cat", "dog"]


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """As ._000.jpg, which macOS writes beside 000.jpg."""
    fill(tmp_path)
    (tmp_path / "train" / "cat" / "._000.jpg").write_bytes(b"not an image")
    assert len(image_folder.open_sources(str(tmp_path), hold_out_per_class=1).train) == 10


def missing_root(root: Path) -> None:
    root.joinpath("train").rename(root / "elsewhere")


def no_classes(root: Path) -> None:
    root.joinpath("train").rename(root / "elsewhere")
    root.joinpath("train").mkdir()


def empty_class(root: Path) -> None:
    root.joinpath("train", "eel").mkdir()


def other_classes(root: Path) -> None:
    fill(root, "val", ("cat", "cow", "dog"))


def fewer_classes(root: Path) -> None:
    fill(root, "val", ("cat",))


def text_file(root: Path) -> None:
    root.joinpath("train", "dog", "notes.txt").write_text("not an image")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: None, r"data\.root: no .*val; set data\.hold_out_per_class"),
        (missing_root, r"cannot list .*train: No such file"),
        (no_classes, r"train holds no class folders"),
        (empty_class, r"class folder .*eel holds no images"),
        (other_classes, r"class cow is in .*val but not in .*train"),
        (fewer_classes, r"class dog is in .*train but not in .*val"),
        (text_file, r"dog/notes\.txt: not an image"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    fill(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        image_folder.open_sources(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_class_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name == "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    with pytest.raises(UserError, match=r"cannot list .*train/dog: Permission denied"):
        image_folder.open_sources(str(tmp_path), hold_out_per_class=1)


def test_a_class_too_small_to_be_cut_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, count=3)
    with pytest.raises(UserError, match=r"data\.hold_out_per_class=3: class number 0 has only 3"):
        image_folder.open_sources(str(tmp_path), hold_out_per_class=3)


BAD_FILES = {
    "empty": b"",
    "text": b"this is not an image at all, whatever its name",
    "truncated": jpeg(50, size=(64, 64))[:-200],
    "header only": jpeg(50)[:20],
    "16 bits": deep_png(),
}


@pytest.mark.parametrize("data", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, data: bytes) -> None:
    fill(tmp_path)
    (tmp_path / "train" / "dog" / "002.jpg").write_bytes(data)
    loader = TrainLoader(reader(tmp_path), global_batch=10, seed=1, workers=2)
    with pytest.raises(UserError, match=r"dog/002\.jpg: .*data\.on_bad_image=skip") as caught:
        list(loader.batches(0, 1))
    assert "\n" not in str(caught.value)


def test_a_file_that_vanished_is_never_skipped(tmp_path: Path) -> None:
    fill(tmp_path)
    skipping = reader(tmp_path, skip_limit=10)
    (tmp_path / "train" / "dog" / "002.jpg").unlink()
    with pytest.raises(UserError, match=r"dog/002\.jpg: cannot be read: No such file"):
        list(TrainLoader(skipping, global_batch=10, seed=1).batches(0, 1))


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_other_colours_become_rgb(tmp_path: Path, mode: str) -> None:
    fill(tmp_path)
    image = Image.new("L", (SIZE, SIZE), 255).convert(mode)
    (tmp_path / "train" / "cat" / "000.jpg").unlink()
    image.save(tmp_path / "train" / "cat" / f"000.{'jpg' if mode in ('L', 'CMYK') else 'png'}")
    images, _, _ = reader(tmp_path).read(np.arange(1))
    assert images.shape == (1, 3, SIZE, SIZE)
    assert images.min() >= 253, "white stays white"


def damaged(root: Path, *numbers: int) -> None:
    for number in numbers:
        (root / "train" / "cat" / f"{number:03}.jpg").write_bytes(b"damage")
