"""What an encoded image becomes: the pixels that Pillow decodes, whichever library does it, or a word on why not."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import socket
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from tests.jobs import Tool
from tests.train.data.folders import blurred_noise, fill
from train.data import open_readers
from train.data.images import FORMATS, BadImage, Jpeg, Picture, Rules, crop_and_resize, open_image
from train.data.options import DataConfig
from train.data.reader import Reader, Skips
from train.data.view import View
from train.runtime.errors import StorageError, UserError
from train.runtime.files import MAX_FILE_BYTES

image_folder = Tool("train.data.image_folder")


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def by_pillow(data: bytes, mode: str = "RGB", reduce: int = 1) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if reduce > 1:
        image.draft(None, (image.width // reduce, image.height // reduce))
    pixels = np.asarray(image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def read(data: bytes, channels: int = 3, reduce: int = 1) -> np.ndarray:
    return Picture(open_image(data)).pixels(channels, reduce)[:, :, :channels].copy()


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(200, 150), (131, 97), (17, 33)])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}, {"quality": 20, "optimize": True},
     {"restart_marker_rows": 1}],
    ids=str,
)  # fmt: skip
def test_the_pixels_are_pillows(options: dict[str, object], size: tuple[int, int], reduce: int) -> None:
    data = encoded(blurred_noise(*size), **options)
    assert isinstance(open_image(data), Jpeg)
    np.testing.assert_array_equal(read(data, reduce=reduce), by_pillow(data, reduce=reduce))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_grey_and_cmyk_jpegs_too(mode: str, channels: int) -> None:
    data = encoded(blurred_noise(80, 60).convert(mode))
    for reduce in (1, 2):
        expected = by_pillow(data, {1: "L", 3: "RGB"}[channels], reduce)
        np.testing.assert_array_equal(read(data, channels, reduce), expected)


def test_a_jpeg_that_stores_red_green_and_blue() -> None:
    data = encoded(blurred_noise(80, 60), keep_rgb=True)
    np.testing.assert_array_equal(read(data), by_pillow(data))


def with_bytes_between_markers(data: bytes) -> bytes:
    """As in some of ImageNet's files: libjpeg warns and goes on."""
    first_table = data.index(b"\xff\xdb")
    return data[:first_table] + b"\x00\x11\x22" + data[first_table:]


def with_bytes_before_the_end(data: bytes) -> bytes:
    return data[:-2] + b"\x55" * 20 + data[-2:]


@pytest.mark.parametrize("change", [with_bytes_between_markers, with_bytes_before_the_end, lambda data: data + b"more"])
def test_bytes_that_harm_nothing_are_accepted(change: object) -> None:
    data = encoded(blurred_noise(80, 60))
    np.testing.assert_array_equal(read(change(data)), read(data))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_truncated_jpeg_is_refused_wherever_it_ends(options: dict[str, object]) -> None:
    data = encoded(blurred_noise(80, 60), **options)
    for change in (lambda whole: whole, with_bytes_between_markers):
        for kept in (*range(0, len(data), 97), len(data) - 2, len(data) - 1):
            with pytest.raises(BadImage):
                read(change(data)[:kept])


def test_a_scan_that_ends_early_is_refused() -> None:
    """The end marker is there, so nothing seems to be missing; Pillow alone would fill the rest with grey."""
    data = encoded(blurred_noise(80, 60))
    middle = 2 * len(data) // 3
    with pytest.raises(BadImage, match="premature end"):
        read(data[:middle] + b"\xff\xd9")


def test_damage_is_told_in_one_line() -> None:
    with pytest.raises(BadImage) as caught:
        read(b"\xff\xd8\xff" + b"\x00" * 100)
    assert re.fullmatch(r"[^\n]+", str(caught.value))


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_of_the_table_is_read(tmp_path: Path, format: str) -> None:
    for number, suffix in enumerate(FORMATS[format]):
        mode = "L" if format in ("PPM", "GIF") else "RGB"
        image = Image.new(mode, (20, 10), 7 if mode == "L" else (7, 7, 7))
        (tmp_path / "train" / f"class{number}").mkdir(parents=True)
        (tmp_path / "train" / f"class{number}" / f"one{suffix.upper()}").write_bytes(encoded(image, format))
    source = image_folder.FolderSource.list_folder(tmp_path / "train")
    batch = Reader(source, View(8)).read(np.arange(len(FORMATS[format])))
    assert (np.abs(batch.images.astype(int) - 7) <= 1).all()


def test_the_first_frame_of_a_gif_is_read() -> None:
    frames = [Image.new("P", (8, 8), index) for index in (3, 5)]
    for frame in frames:
        frame.putpalette([value for index in range(256) for value in (index * 20 % 256,) * 3])
    assert read(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).mean() == 60


def written_by_pillow() -> dict[str, bytes]:
    """A file of each format that Pillow writes and the table does not list."""
    Image.init()
    files = {}
    for format in sorted(set(Image.SAVE) - set(FORMATS) - {"MPO"}):  # MPO is a JPEG with others behind it
        for mode in ("RGB", "L", "P", "1"):
            with contextlib.suppress(Exception):
                files[format] = encoded(Image.new(mode, (32, 32)), format)
                break
    return files


def test_every_other_format_is_refused_whatever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written_by_pillow()
    assert {"EPS", "PDF", "ICO", "TGA", "PCX", "SGI"} <= set(files)

    def started(*args: object, **options: object) -> None:
        raise AssertionError("another program was started")

    for start in ("Popen", "run", "check_call"):
        monkeypatch.setattr(subprocess, start, started)
    for format, data in files.items():
        with pytest.raises(BadImage, match="no image of a format that is read"):
            read(data)
        assert format not in FORMATS


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "sparse"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "train" / "cat" / "z.jpg"
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with open(path, "wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)
    reader = Reader(image_folder.FolderSource.list_folder(tmp_path / "train"), View(8))
    with pytest.raises(UserError, match=r"cat/z\.jpg: (is not a regular file|its \d+ bytes are more than)"):
        reader.read(np.arange(1))


def test_an_error_of_the_storage_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    source = image_folder.FolderSource.list_folder(tmp_path / "train")

    def fail(*args: object, **options: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(StorageError, match=r"cat/000\.jpg: cannot be read: Input/output error"):
        Reader(source, View(8), Skips(100)).read(np.arange(1))


def with_size(data: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header says another size."""
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def test_a_header_that_cannot_be_true_is_refused() -> None:
    data = encoded(blurred_noise(64, 64))
    with pytest.raises(BadImage, match=r"9000x9000 pixels, which \d+ bytes cannot hold"):
        open_image(with_size(data, 9000, 9000))
    with pytest.raises(BadImage, match="premature end"):
        read(with_size(data, 640, 480))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(format: str) -> None:
    image = open_image(encoded(blurred_noise(80, 60), format))
    with pytest.raises(BadImage, match=r"80x60 pixels are more than data\.max_pixels=4799"):
        Picture(image, Rules(max_pixels=4799))
    assert Picture(image, Rules(max_pixels=4800)).pixels(3).shape[:2] == (60, 80)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_or_ignored(format: str, orientation: int) -> None:
    stored = Image.new("RGB", (48, 32))
    stored.paste((250, 250, 250), (0, 0, 24, 8))
    stored.paste((120, 120, 120), (24, 24, 48, 32))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(stored, format, exif=exif, quality=100)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    picture = Picture(open_image(data))
    assert picture.size == upright.shape[1::-1]
    np.testing.assert_array_equal(picture.pixels(3)[:, :, :3], upright)
    if format != "TIFF":  # which Pillow turns in any case
        as_stored = Picture(open_image(data), Rules(upright=False))
        assert as_stored.size == stored.size
        np.testing.assert_array_equal(as_stored.pixels(3)[:, :, :3], by_pillow(data))
    cut = crop_and_resize(Picture(open_image(data)), (0, 0, *picture.size), 16, 3)
    assert np.abs(cut.astype(int) - crop_and_resize(Image.fromarray(upright), (0, 0, *picture.size), 16, 3)).max() < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_gets_the_background(mode: str, channels: int) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.putpixel((0, 0), 1)
        data = encoded(image, "PNG", transparency=0)
    else:
        image = Image.new(mode, (8, 8), (0,) * len(mode))
        image.putpixel((0, 0), (*(10,) * (len(mode) - 1), 255))
        data = encoded(image, "PNG")
    for background, expected in (((255, 255, 255), 255), ((100, 100, 100), 100), (None, 0)):
        picture = Picture(open_image(data), Rules(background=background))
        pixels = picture.pixels(channels)
        assert picture.transparent
        assert (pixels[0, 0].tolist(), pixels[1:].min(), pixels[1:].max()) == ([10] * channels, expected, expected)


def test_what_matters_is_said_once_in_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    fill(tmp_path, "val")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    opaque = Image.new("RGBA", (8, 8), (1, 2, 3, 255))
    (tmp_path / "train" / "cat" / "000.jpg").write_bytes(encoded(opaque, "PNG"))
    options = DataConfig(source="image_folder", root=str(tmp_path), image_size=8)
    open_readers(options).train.read(np.arange(12))
    assert not caplog.records, "an alpha channel that hides nothing is none"
    for number in (1, 2, 3):
        (tmp_path / "train" / "cat" / f"00{number}.jpg").write_bytes(encoded(opaque.convert("RGB"), exif=exif))
        (tmp_path / "val" / "dog" / f"00{number}.jpg").write_bytes(encoded(Image.new("LA", (8, 8)), "PNG"))
    readers = open_readers(options)
    for reader in (*readers, *readers):
        reader.read(np.arange(12))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/train/cat/001.jpg has an EXIF orientation: such images are turned; data.orientation changes that",
        f"{tmp_path}/val/dog/001.jpg has transparent places: they get (255, 255, 255); data.background changes that",
    ]


def test_a_png_with_much_text_is_named(tmp_path: Path) -> None:
    fill(tmp_path, count=2)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2_000_000, zip=True)
    (tmp_path / "train" / "cat" / "000.jpg").write_bytes(encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=text))
    options = DataConfig(source="image_folder", root=str(tmp_path), hold_out=1, image_size=8)
    with pytest.raises(UserError, match=r"cat/000\.jpg: its text .* larger than 1 MiB; repair"):
        open_readers(options).train.read(np.arange(1))
