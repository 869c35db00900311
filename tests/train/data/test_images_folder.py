"""Image folders: what is listed, what is held out, and what is said about damage."""

from __future__ import annotations

import errno
import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs import DIGITS
from tests.train.data.folders import SIZE, fill, jpeg, reader, text_file
from train.data import image_folder
from train.data.loader import TrainLoader
from train.data.reader import Reader
from train.data.view import View
from train.recipe.read import load_config
from train.run.task import open_task, refuse_other_targets
from train.runtime.errors import UserError


def deep_png() -> bytes:
    """A grey image of 16 bits a pixel."""
    file = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 1000, np.uint16)).save(file, "PNG")
    return file.getvalue()


def test_the_last_of_each_class_are_held_out(tmp_path: Path) -> None:
    fill(tmp_path)
    train, held_out = image_folder.open_sources(str(tmp_path), hold_out=2)
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
    assert (len(sources.train), len(sources.validation)) == (12, 6)
    assert "val" in sources.validation.name(0)
    with pytest.raises(UserError, match=r"data\.hold_out=2: .*val exists"):
        image_folder.open_sources(str(tmp_path), hold_out=2)


def test_listing_opens_no_file(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"")
    assert len(image_folder.open_sources(str(tmp_path), hold_out=1).train) == 10


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    """As a notebook's .ipynb_checkpoints, which would move every label by one."""
    fill(tmp_path, classes=(".hidden", "cat", "dog"))
    assert image_folder.open_sources(str(tmp_path), hold_out=1).train.class_names == ["cat", "dog"]


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """As ._000.jpg, which macOS writes beside 000.jpg."""
    fill(tmp_path)
    (tmp_path / "train" / "cat" / "._000.jpg").write_bytes(b"not an image")
    assert len(image_folder.open_sources(str(tmp_path), hold_out=1).train) == 10


def test_a_root_one_level_too_deep_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path} has a folder train, set data\.root={tmp_path};"):
        image_folder.open_sources(str(tmp_path / "train"))
    for path, words in (
        (tmp_path / "nowhere", "no such folder; expected: ROOT"),
        (tmp_path / "train/cat/000.jpg", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("x\0", "embedded null byte"),
    ):
        for hold_out in (0, 1):
            with pytest.raises(UserError, match=rf"data\.root.*{path}: .*{words}"):
                image_folder.open_sources(str(path), hold_out=hold_out)


def test_one_folder_of_classes_is_split(tmp_path: Path) -> None:
    fill(tmp_path)
    train, validation = image_folder.open_sources(str(tmp_path / "train"), hold_out=0.3)
    assert (len(train), validation.labels.tolist()) == (8, [0, 0, 1, 1])
    assert Path(validation.name(0)).name == "004.jpg", "the last by name"


def test_folders_inside_a_class_are_walked(tmp_path: Path) -> None:
    fill(tmp_path, count=2)
    inside = tmp_path / "train" / "cat" / "b" / "c"
    inside.mkdir(parents=True)
    (inside / "9.jpg").write_bytes(jpeg(77))
    for name, place in {"loop": "train/cat", "classes": "train", "root": "."}.items():
        (inside / name).symlink_to(tmp_path / place)  # dogs are no cats
    train, _ = image_folder.open_sources(str(tmp_path), hold_out=1)
    source = image_folder.FolderSource.list_folder(tmp_path / "train")
    assert [source.name(i).split("train/")[1] for i in range(3)] == ["cat/000.jpg", "cat/001.jpg", "cat/b/c/9.jpg"]
    assert len(train) == 3
    assert Reader(source, View(SIZE)).read(np.array([2])).images.mean() == pytest.approx(77, abs=2)


def test_what_operating_systems_leave_is_no_image(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", "ehthumbs.db"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"left behind")
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN"):
        (tmp_path / "train" / name).mkdir()
    source = image_folder.FolderSource.list_folder(tmp_path / "train")
    assert (source.class_names, len(source)) == (["cat", "dog"], 12)


def test_classes_are_numbered_as_the_recipe_says(tmp_path: Path) -> None:
    fill(tmp_path, classes=("2", "10", "1"))
    names = {
        order if isinstance(order, str) else "map": image_folder.open_sources(str(tmp_path), hold_out=1, order=order)
        for order in ("name", "natural", {"10": 0, "2": 1, "1": 2})
    }
    assert {order: sources.train.class_names for order, sources in names.items()} == {
        "name": ["1", "10", "2"], "natural": ["1", "2", "10"], "map": ["10", "2", "1"],
    }  # fmt: skip
    mapped = names["map"].train
    assert "/10/" in mapped.name(0) and mapped.labels[0] == 0 and "/1/" in mapped.name(14)
    assert len({sources.train.fingerprint() for sources in names.values()}) == 3
    for order, message in (
        ({"1": 0, "2": 1}, "class folder 10 is missing"),
        ({"1": 0, "2": 1, "10": 2, "11": 3}, "class folder 11 but there is no such folder"),
        ({"1": 0, "2": 1, "10": 3}, "0 to 2, each once"),
    ):
        with pytest.raises(UserError, match=message):
            image_folder.open_sources(str(tmp_path), hold_out=1, order=order)


def missing_root(root: Path) -> None:
    root.joinpath("train").rename(root / "elsewhere")


def no_classes(root: Path) -> None:
    root.joinpath("train").rename(root / "elsewhere")
    root.joinpath("train").mkdir()


def flat(root: Path) -> None:
    for path in list((root / "train").glob("*/*.jpg")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for name in ("cat", "dog"):
        (root / "train" / name).rmdir()


def flat_val(root: Path) -> None:
    flat(root)
    (root / "train").rename(root / "val")
    fill(root)


def test_for_val(root: Path) -> None:
    fill(root, "test")


test_for_val.__test__ = False  # type: ignore[attr-defined]


def too_high(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "train").rename(root / "sub" / "train")


def no_parts(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / "train" / name).rename(root / name)
    (root / "train").rmdir()


def empty_class(root: Path) -> None:
    root.joinpath("train", "eel").mkdir()


def other_classes(root: Path) -> None:
    fill(root, "val", ("cat", "cow", "dog"))


def fewer_classes(root: Path) -> None:
    fill(root, "val", ("cat",))


def link_to_nowhere(root: Path) -> None:
    (root / "train" / "eel").symlink_to(root / "unmounted" / "eel")


def link_to_itself(root: Path) -> None:
    (root / "train" / "eel").symlink_to("eel")


def other_unicode_form(root: Path) -> None:
    for part, form in (("train", "NFC"), ("val", "NFD")):
        fill(root, part, (unicodedata.normalize(form, "pâté"),))
    fill(root, "val", ("cat", "dog"))


def two_unicode_forms(root: Path) -> None:
    fill(root, "train", tuple(unicodedata.normalize(form, "pâté") for form in ("NFC", "NFD")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: None, r"data\.root: no .*val; set data\.hold_out"),
        (missing_root, r"no folder train; it holds elsewhere; expected: ROOT/train/<class>/\*\.jpg"),
        (no_classes, r"train holds no class folders; expected: ROOT/train/<class>/\*\.jpg"),
        (flat, r"train holds no class folders"),
        (flat_val, r"val holds no class folders"),
        (test_for_val, r"no .*val, but .*test; rename it; set data\.hold_out"),
        (too_high, r"no folder train; it holds sub; .*sub has a folder train, set data\.root=.*sub"),
        (no_parts, r"class folders \(cat, dog\) without train and val; data\.hold_out would"),
        (empty_class, r"class folder .*eel holds no images; remove it"),
        (other_classes, r"class cow is in .*val but not in .*train"),
        (fewer_classes, r"class dog is in .*train but not in .*val"),
        (link_to_nowhere, r"train/eel is a broken link"),
        (link_to_itself, r"train/eel is a broken link"),
        (
            other_unicode_form,
            r"class 'p\\xe2t\\xe9' of .*train is written 'pa\\u0302te\\u0301' in .*val: .*\(NFC, NFD\)",
        ),
        (two_unicode_forms, r"class folders 'p.*' and 'p.*' are the same letters in two Unicode forms \(NFC, NFD\)"),
        (text_file, r"dog/notes\.txt: not an image"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    fill(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        image_folder.open_sources(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_examples_of_one_class_are_refused_unless_the_loss_is_ones_own(tmp_path: Path) -> None:
    fill(tmp_path, classes=("images",))
    folder = ["data.source=image_folder", f"data.root={tmp_path}", "data.hold_out=1"]
    config = load_config(DIGITS, folder)
    with pytest.raises(UserError, match=r"all 5 training examples are of one class, number 0, from which nothing can"):
        open_task(config)
    refuse_other_targets(load_config(DIGITS, [*folder, "step.loss=mindspore.nn:MSELoss"]), reader(tmp_path))


def test_a_class_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name == "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    with pytest.raises(UserError, match=r"cannot list .*train/dog: Permission denied"):
        image_folder.open_sources(str(tmp_path), hold_out=1)


def test_a_class_too_small_to_be_cut_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, count=3)
    with pytest.raises(UserError, match=r"data\.hold_out=3: class cat has only 3 examples"):
        image_folder.open_sources(str(tmp_path), hold_out=3)


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
    with pytest.raises(UserError, match=r"dog/002\.jpg: .*data\.bad_image_limit") as caught:
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
