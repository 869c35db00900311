"""Folders of images that tests make, and damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.jobs import Tool
from train.data.reader import Reader, Skips
from train.data.view import View

image_folder = Tool("train.data.image_folder")

SIZE = 8


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


def reader(root: Path, skip_limit: int = 0, hold_out: int = 1) -> Reader:
    skips = Skips(skip_limit)
    sources = image_folder.open_sources(str(root), hold_out=hold_out, skips=skips)
    return Reader(sources.train, View(SIZE), skips)


def text_file(root: Path) -> None:
    root.joinpath("train", "dog", "notes.txt").write_text("not an image")


def damaged(root: Path, *numbers: int) -> None:
    for number in numbers:
        (root / "train" / "cat" / f"{number:03}.jpg").write_bytes(b"damage")


def blurred_noise(width: int, height: int) -> Image.Image:
    """Detail at every scale, the least of it at the scale of single pixels."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
    return Image.blend(coarse.resize((width, height), Image.Resampling.BICUBIC), noise, 0.3)
