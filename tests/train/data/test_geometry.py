"""Pad and crop, flip, erase: what they draw, with the ranges of their papers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from train.data.augment import build_augmentations


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_pad_crop_reaches_every_place(mode: Literal["constant", "reflect"], channels: int) -> None:
    image = np.arange(1, 25 * channels + 1, dtype=np.uint8).reshape(5, 5, channels)
    (crop,) = build_augmentations([{"pad_crop": {"padding": 2, "padding_mode": mode}}])
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode)
    allowed = {padded[y : y + 5, x : x + 5].tobytes() for y in range(5) for x in range(5)}
    seen = {crop(image, np.random.default_rng(i)).tobytes() for i in range(500)}
    assert seen == allowed


@pytest.mark.parametrize("channels", [1, 3])
def test_flip_mirrors_half_of_the_images(channels: int) -> None:
    pixels = np.arange(12 * channels, dtype=np.uint8).reshape(3, 4, channels)
    (flip,) = build_augmentations(["flip"])
    results = [flip(pixels, np.random.default_rng(i)) for i in range(400)]
    flipped = [np.array_equal(one, pixels[:, ::-1]) for one in results]
    assert all(one or np.array_equal(result, pixels) for one, result in zip(flipped, results, strict=True))
    assert 160 < sum(flipped) < 240


def test_random_erasing_fills_one_rectangle_and_leaves_its_input_alone() -> None:
    (erase,) = build_augmentations([{"random_erasing": {"probability": 1.0}}])
    image = np.full((40, 40, 3), 7, np.uint8)
    result = erase(image, np.random.default_rng(2))
    changed = (result != 7).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    box = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.mean() > 0.95 and 0.02 * 1600 * 0.9 < changed.sum() < 0.4 * 1600 * 1.1
    assert image.max() == 7


def test_random_erasing_spares_half_of_the_images() -> None:
    (erase,) = build_augmentations(["random_erasing"])
    image = np.full((20, 20, 1), 7, np.uint8)
    assert 160 < sum((erase(image, np.random.default_rng(i)) != image).any() for i in range(400)) < 240


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("flp", "unknown augmentation 'flp'; did you mean flip"),
        ({"flip": {"p": 0.5}}, "flip has no option 'p'; allowed: probability"),
        ({"pad_crop": {"padding": 0}}, "pad_crop.padding=0: "),
        ({"pad_crop": {"padding_mode": "edge"}}, "pad_crop.padding_mode='edge': .*'constant' or 'reflect'"),
    ],
)
def test_a_wrong_option_is_named(entry: str | dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_augmentations([entry])
