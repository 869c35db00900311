"""TrivialAugment and RandAugment: what they draw, with the ranges of their papers."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from train.data import policies
from train.data.augment import build_augmentations


class Applied(NamedTuple):
    space: dict[str, float]
    name: str
    strength: float
    negative: bool


def applied(monkeypatch: pytest.MonkeyPatch, entry: str | dict[str, dict[str, object]], count: int) -> list[Applied]:
    """Return what an augmentation applies to ``count`` images; each is changed by all of it, one after the other."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    (augment,) = build_augmentations([entry])
    seen: list[Applied] = []
    apply, results = policies.apply, [Image.fromarray(image)]

    def note(space: dict[str, float], name: str, before: Image.Image, strength: float, negative: bool) -> Image.Image:
        np.testing.assert_array_equal(before, results[-1])
        seen.append(Applied(space, name, strength, negative))
        results.append(apply(space, name, before, strength, negative))
        return results[-1]

    monkeypatch.setattr(policies, "apply", note)
    for i in range(count):
        result = augment(image, np.random.default_rng(i))
        np.testing.assert_array_equal(result, results[-1])
        results[:] = [Image.fromarray(image)]
    return seen


def test_trivial_augment_draws_one_operation_and_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = applied(monkeypatch, "trivial_augment", 2000)
    assert len(seen) == 2000 and all(one.space is policies.WIDE for one in seen)
    assert {round(30 * one.strength) for one in seen} == set(range(31))
    assert 900 < sum(one.negative for one in seen) < 1100
    counts = Counter(one.name for one in seen)
    assert set(counts) == set(policies.OPERATIONS) and 100 < min(counts.values()) <= max(counts.values()) < 190


def test_rand_augment_draws_several_operations_of_one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = applied(monkeypatch, {"rand_augment": {"operations": 3, "magnitude": 6}}, 700)
    assert len(seen) == 2100 and all(one.space is policies.NARROW and one.strength == 0.2 for one in seen)
    assert 950 < sum(one.negative for one in seen) < 1150
    counts = Counter(one.name for one in seen)
    assert set(counts) == set(policies.OPERATIONS) and 100 < min(counts.values()) <= max(counts.values()) < 200


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("space", [policies.WIDE, policies.NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_operations_keep_size_and_mode_and_grow_with_strength(name: str, space: dict[str, float], mode: str) -> None:
    ramp = np.add.outer(np.arange(20, 52, dtype=np.uint8) * 2, np.arange(32, dtype=np.uint8) * 3)
    image = Image.fromarray(ramp).convert("RGB")
    image.putpixel((5, 5), (200, 30, 90))
    image = image.convert(mode)
    results = [policies.apply(space, name, image, strength, True) for strength in (0.0, 1.0)]
    for result in results:
        assert (result.mode, result.size) == (image.mode, image.size)
    if name in space:
        np.testing.assert_array_equal(results[0], image, err_msg="strength 0 changes nothing")
        if not (mode == "L" and name == "color"):
            assert (np.asarray(results[1]) != np.asarray(image)).any()


def test_shift_and_turn_are_what_they_say() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(pixels)
    moved = policies.apply({"translate_x": 3 / 8}, "translate_x", image, 1.0, False)
    np.testing.assert_array_equal(np.asarray(moved)[:, :5], pixels[:, 3:])
    turned = policies.apply({"rotate": 90.0}, "rotate", image, 1.0, False)
    np.testing.assert_array_equal(turned, np.rot90(pixels))
    np.testing.assert_array_equal(policies.apply(policies.WIDE, "posterize", image, 1.0, False), pixels & 0b11000000)
    np.testing.assert_array_equal(policies.apply(policies.WIDE, "solarize", image, 1.0, False), 255 - pixels)


def test_what_has_no_options_says_so() -> None:
    with pytest.raises(ValueError, match="trivial_augment has no option 'bins'; it has none"):
        build_augmentations([{"trivial_augment": {"bins": 3}}])
