"""Image folders: what is listed, what is held out, and what is said about damage."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data import image_folder
from train.data.augment import build_augmentations
from train.data.images import BadImage
from train.data.loader import EvalLoader, TrainLoader
from train.data.reader import Reader
from train.data.views import View
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
    sources = image_folder.open_sources(str(root), hold_out_per_class=hold_out, skip_other_files=skip_limit is not None)
    return Reader(sources.train, View(SIZE), skip_limit)


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


def test_a_skipped_image_is_replaced_by_the_next_of_its_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1, 2, 4)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    runs = [
        [TrainLoader(reader(tmp_path, 3), global_batch=10, seed=1, rank=r, world_size=world, workers=workers)
         for r in range(world)]
        for world, workers in ((1, 1), (1, 3), (3, 2))
    ]  # fmt: skip
    held = [np.concatenate([next(iter(one.batches(0, 1))).indices for one in run]).tolist() for run in runs]
    assert held[0] == held[1] == held[2], "no rank and no thread changes the replacement"
    expected = [{1: 3, 2: 3, 4: 0}.get(index, index) for index in runs[0][0].indices(0).tolist()]
    assert held[0] == expected
    batch = next(iter(runs[0][0].batches(0, 1)))
    np.testing.assert_array_equal(batch.labels, np.asarray(expected) >= 5)
    np.testing.assert_allclose(
        batch.images.mean(axis=(1, 2, 3)), [100 * (i >= 5) + 10 * (i % 5) for i in expected], atol=2
    )
    assert {path for path in re.findall(r"skipped \S*/cat/(\S+):", caplog.text)} == {
        "001.jpg", "002.jpg", "004.jpg", "notes.txt",
    }  # fmt: skip
    before = len(caplog.records)
    list(runs[0][0].batches(0, 2))
    assert len(caplog.records) == before, "each file is named once"


@pytest.mark.parametrize("last", range(5))
def test_the_last_readable_image_of_a_class_is_found_from_everywhere(tmp_path: Path, last: int) -> None:
    fill(tmp_path)
    damaged(tmp_path, *(number for number in range(5) if number != last))
    batch = next(iter(TrainLoader(reader(tmp_path, 4), global_batch=10, seed=1).batches(0, 1)))
    assert batch.indices[batch.labels == 0].tolist() == [last] * 5


def test_a_replacement_is_augmented_the_same_whether_or_not_the_damage_was_known(tmp_path: Path) -> None:
    """Damage that shows only after the crop has been drawn: as for a run that was resumed in between."""
    fill(tmp_path)
    for number in range(6):
        path = tmp_path / "train" / "cat" / f"{number:03}.jpg"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path = tmp_path / "train" / "cat" / "003.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    source = image_folder.open_sources(str(tmp_path), hold_out_per_class=1).train
    view = View(SIZE, augmentations=build_augmentations(["random_resized_crop", "flip"]))
    known = Reader(source, view, skip_limit=1)
    first, again = (known.read(np.array([3]), np.random.default_rng) for _ in range(2))
    assert first.indices.tolist() == again.indices.tolist() == [4]
    np.testing.assert_array_equal(first.images, again.images)


class SlowToTell(BadImage):
    """Its reason is read only when two threads ask for it at once, or after a fifth of a second."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)

    def __str__(self) -> str:
        with suppress(threading.BrokenBarrierError):
            self.both.wait(0.2)
        return "damage"


def test_a_file_that_two_threads_meet_at_once_is_named_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    shared = reader(tmp_path, skip_limit=1)
    opened, error, open_image = threading.Barrier(2), SlowToTell(), shared.source.image

    def image(index: int) -> Image.Image:
        if index != 3:
            return open_image(index)
        opened.wait(60)
        raise error

    monkeypatch.setattr(shared.source, "image", image)
    with ThreadPoolExecutor(2) as threads:
        batches = list(threads.map(lambda _: shared.read(np.array([3]), np.random.default_rng), range(2)))
    assert [batch.indices.tolist() for batch in batches] == [[4], [4]]
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["damage (1 of at most 1)"]
    assert shared.skipped == {3: "damage"}


def test_skipping_stops_above_the_limit(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1, 2, 4)
    with pytest.raises(UserError, match=r"cat/00\d\.jpg: .*data\.bad_image_limit=2"):
        list(TrainLoader(reader(tmp_path, 2), global_batch=10, seed=1).batches(0, 1))


def test_a_class_without_a_readable_image_stops(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 0, 1, 2, 3, 4)
    with pytest.raises(UserError, match=r"cat/00\d\.jpg: no image of its class can be decoded"):
        list(TrainLoader(reader(tmp_path, 100), global_batch=10, seed=1).batches(0, 1))


def test_a_skipped_held_out_image_counts_nowhere(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1, 4)
    batches = list(EvalLoader(reader(tmp_path, 5), batch=4).batches())
    labels = np.concatenate([batch.labels for batch in batches])
    indices = np.concatenate([batch.indices for batch in batches])
    assert indices.tolist() == [0, -1, 2, 3, -1, 5, 6, 7, 8, 9, -1, -1]
    np.testing.assert_array_equal(labels, np.where(indices < 0, -1, indices >= 5))


def test_what_is_left_out_is_black_whatever_the_memory_held(tmp_path: Path) -> None:
    fill(tmp_path)
    damaged(tmp_path, 1)
    skipping = reader(tmp_path, 5)
    batch = skipping.new_batch(4)
    batch.images[:] = 7
    skipping.fill(batch, np.array([9, 1]))
    assert batch.indices.tolist() == [9, -1, -1, -1]
    assert batch.images[0].min() > 0 and not batch.images[1:].any()
