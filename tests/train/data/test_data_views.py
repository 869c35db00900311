"""Augmentation: pure functions of (seed, epoch, example), with the ranges of their papers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.train.data.folders import blurred_noise
from train.data.arrays import MemorySource
from train.data.augment import AUGMENTATIONS, RandomResizedCrop, build_augmentations
from train.data.images import Picture, crop_and_resize, open_image
from train.data.loader import EvalLoader, TrainLoader
from train.data.reader import Reader
from train.data.view import View

EVERYTHING = list(AUGMENTATIONS)


def noise(length: int = 24, channels: int = 3, size: int = 12) -> MemorySource:
    images = np.random.default_rng(0).integers(0, 256, (length, channels, size, size), np.uint8)
    return MemorySource(images, np.arange(length, dtype=np.int32) % 4, num_classes=4)


def loader(rank: int = 0, world_size: int = 1, workers: int = 1, seed: int = 3) -> TrainLoader:
    reader = Reader(noise(), View(12, augmentations=build_augmentations(EVERYTHING)))
    return TrainLoader(reader, global_batch=10, seed=seed, rank=rank, world_size=world_size, workers=workers)


def test_neither_threads_nor_ranks_nor_the_start_change_a_pixel() -> None:
    whole = [batch.images for batch in loader().batches(0, 6)]
    for threaded, expected in zip(loader(workers=5).batches(0, 6), whole, strict=True):
        np.testing.assert_array_equal(threaded.images, expected)
    ranks = [loader(rank, 3, workers=2).batches(0, 6) for rank in range(3)]
    for parts, expected in zip(zip(*ranks, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), expected)
    for start in (1, 2, 5):
        for late, expected in zip(loader(workers=2).batches(start, 6), whole[start:], strict=True):
            np.testing.assert_array_equal(late.images, expected)


def test_every_epoch_and_seed_augments_anew() -> None:
    def by_example(seed: int) -> dict[tuple[int, int], bytes]:
        batches = enumerate(loader(seed=seed).batches(0, 4))
        return {
            (step // 2, index): image.tobytes()
            for step, batch in batches
            for index, image in zip(batch.indices.tolist(), batch.images, strict=True)
        }

    first, second = by_example(3), by_example(4)
    again = [index for epoch, index in first if epoch == 0 and (1, index) in first]
    assert len(again) > 10
    assert all(first[0, index] != first[1, index] for index in again)
    both = [key for key in first if key in second]
    assert both and all(first[key] != second[key] for key in both)


def test_evaluation_changes_nothing() -> None:
    source = noise(5)
    reader = Reader(source, View(12, augmentations=build_augmentations(EVERYTHING)))
    (batch,) = EvalLoader(reader, batch=5).batches()
    np.testing.assert_array_equal(batch.images, source.images)


def test_random_resized_crop_keeps_its_ranges() -> None:
    crop = RandomResizedCrop()
    areas, ratios = [], []
    for i in range(2000):
        left, upper, right, lower = crop.box(400, 300, np.random.default_rng(i))
        assert 0 <= left < right <= 400 and 0 <= upper < lower <= 300
        areas.append((right - left) * (lower - upper) / (400 * 300))
        ratios.append((right - left) / (lower - upper))
    assert 0.078 < min(areas) < 0.1 and 0.9 < max(areas) <= 1
    assert 0.74 < min(ratios) < 0.77 and 1.3 < max(ratios) < 1.35


def test_the_shape_of_a_crop_is_drawn_evenly_in_its_logarithm() -> None:
    crop = RandomResizedCrop(scale=(0.1, 0.3))
    boxes = np.array([crop.box(400, 400, np.random.default_rng(i)) for i in range(2000)])
    logarithms = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    assert abs(logarithms.mean()) < 0.012, "drawn evenly in the ratio itself it is 0.03"


def test_a_narrow_image_falls_back_to_the_widest_centre() -> None:
    crop = RandomResizedCrop(scale=(0.9, 1.0))
    assert crop.box(1000, 30, np.random.default_rng(0)) == (480, 0, 520, 30)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"random_resized_crop": {"scale": [0.5, 0.1]}}, r"random_resized_crop.scale=\[0.5, 0.1\]: the smaller"),
        ({"flip": {}, "pad_crop": {}}, "each entry is one name"),
        ("random_resized_crop", "must come first"),
    ],
)
def test_a_wrong_list_is_named(entry: str | dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_augmentations(["flip", entry])


def test_every_augmentation_has_defaults() -> None:
    assert len(build_augmentations(EVERYTHING)) == len(EVERYTHING)


def photograph(width: int, height: int, format: str) -> bytes:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([127 + 100 * np.sin(x / 60), 127 + 100 * np.cos(y / 40), (x + y) % 256 / 2], axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format, quality=95)
    return file.getvalue()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (96, 48, 1304, 1152)
    decoded: list[tuple[int, ...]] = []

    def note(*args: object, **options: object) -> np.ndarray:
        pixels = decode_jpeg(*args, **options)
        decoded.append(pixels.shape)
        return pixels

    decode_jpeg = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", note)
    small = crop_and_resize(open_image(photograph(1600, 1200, "JPEG")), box, 64, channels=3)
    assert decoded == [(150, 200, 4)], "an eighth: 1100 pixels are then still twice 64"
    whole = Image.open(io.BytesIO(photograph(1600, 1200, "PNG")))
    expected = whole.resize((64, 64), Image.Resampling.BILINEAR, box=box)
    difference = np.abs(np.asarray(small, np.float64) - np.asarray(expected, np.float64))
    assert difference.mean() < 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "box", [(10, 20, 60, 80), (0, 0, 75, 75), (3, 5, 103, 105), (0, 0, 128, 60), (20, 0, 180, 160), (0, 0, 400, 300)]
)
def test_resampling_is_close_to_the_triangle_filter(box: tuple[int, int, int, int], channels: int) -> None:
    """Which Pillow's own bilinear resampling uses: as wide as the step, so that it passes over no pixel."""
    image = blurred_noise(400, 300).convert("L" if channels == 1 else "RGB")
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR, box=box), np.float64)
    found = crop_and_resize(image, box, 64, channels).reshape(expected.shape)
    assert np.abs(found - expected).mean() < 4
    assert abs(found.mean() - expected.mean()) < 0.5


def test_what_is_smaller_than_the_step_does_not_become_a_pattern() -> None:
    lines = np.zeros((300, 300), np.uint8)
    lines[:, ::2] = 255
    for pixels in (lines, lines.T, np.maximum(lines, lines.T)):
        for side in (130, 150, 180, 300):
            found = crop_and_resize(Image.fromarray(pixels), (0, 0, side, side), 64, 1)
            assert found.std() < 0.25 * pixels.std(), side


def test_evaluation_cuts_out_the_centre() -> None:
    pixels = np.zeros((200, 300), np.uint8)
    pixels[25:175, 75:225] = 255  # three quarters of the shorter side, in the middle
    picture = Picture(Image.fromarray(pixels))
    (image,), _ = View(96, shorter_side=128).cut([picture], [], 1)
    assert image.shape == (96, 96, 1)
    assert image[1:-1, 1:-1].min() == 255
    (wider,), _ = View(112, shorter_side=128).cut([picture], [], 1)
    assert wider[:7].max() == 0 and wider[9:-9, 9:-9].min() == 255
