"""The section ``data`` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from PIL import ImageColor
from pydantic import Field, ValidationInfo, field_validator

from train.data.augment import build_augmentations
from train.data.images import Rules
from train.runtime.errors import near_matches
from train.runtime.keys import (
    MAY_CHANGE,
    MAY_DIFFER,
    Count,
    Place,
    PositiveInt,
    Section,
    check_references,
    is_reference,
)

Augmentations = list[Any]
"""Each a name, or a mapping of one name to its options."""

OF_FILES = {
    "cifar10": "train.data.cifar10:from_recipe",
    "image_folder": "train.data.image_folder:from_recipe",
    "mindrecord": "train.data.mindrecord:from_recipe",
}
WITHOUT_FILES = {
    "digits": "train.data.arrays:digits_from_recipe",
    "synthetic": "train.data.arrays:noise_from_recipe",
}
SOURCES = OF_FILES | WITHOUT_FILES
"""Where each is opened: imported when a recipe names it, and called with its section ``data`` and what counts files
that are no images (:class:`train.data.reader.Skips`)."""
LEAST_STD = 1e-6
"""What is divided by less is no number any more in float32."""


class DataConfig(Section):
    source: str = Field("digits", description=f"{', '.join(SOURCES)}, or yours as module:function")
    root: Annotated[Place, MAY_DIFFER] = Field(
        "", validate_default=True, description="folder of the data set, for sources that read files"
    )
    options: dict[str, Any] = Field({}, description="passed to a source of yours")
    hold_out: float = Field(
        0.0, ge=0, description="where there is no val, hold out the last of each class: 20 examples, or 0.1 of them"
    )
    classes: Any = Field(
        "name", description="order of image_folder's classes: name, natural (2 before 10), or {folder: number, …}"
    )
    image_size: PositiveInt = Field(
        16, le=4096, description="height and width of the images given to the model, in pixels"
    )
    eval_resize: Count = Field(0, description="shorter side before evaluation's centre crop; 0: image_size")
    augment: Augmentations = Field([], description="in this order: train/data/README.md; or yours as module:function")
    collate: str | dict[str, dict[str, Any]] = Field(
        "", description="yours as module:function: puts examples of different lengths together"
    )
    mean: list[float] = Field([], description="of each channel, values in [0, 1]; empty: the source's own")
    std: list[float] = Field([], description="as mean")
    global_batch: PositiveInt = Field(128, le=10**6, description="images of one update, summed over all ranks")
    eval_batch: Annotated[PositiveInt, MAY_CHANGE] = Field(
        120, le=10**6, description="images of one evaluation step on each rank"
    )
    orientation: Literal["apply", "ignore"] = Field("apply", description="turn photographs as their EXIF data says")
    background: str = Field("white", description='behind transparent places: white, "#808080"; ignore: as stored')
    max_pixels: PositiveInt = Field(100_000_000, description="larger images count as ones that cannot be decoded")
    bad_image_limit: Count = Field(0, description="how many files that cannot be decoded each rank may skip")
    workers: Annotated[Count, MAY_DIFFER] = Field(
        0, le=1000, description="threads that read images on each rank; 0: as many as it has cores"
    )
    synthetic_examples: PositiveInt = Field(12_800, le=10**8, description="training images of source synthetic")
    synthetic_classes: PositiveInt = Field(1000, le=10**7, description="classes of source synthetic")

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source not in SOURCES and not is_reference(source):
            raise ValueError(near_matches(source, SOURCES))
        return source

    @field_validator("classes")
    @classmethod
    def _known_order(cls, order: Any) -> Any:
        if order not in ("name", "natural") and not (
            isinstance(order, dict) and all(type(number) is int for number in order.values())
        ):
            raise ValueError("must be name, natural, or the number of each class folder, as {cat: 0, dog: 1}")
        return order

    @field_validator("mean", "std")
    @classmethod
    def _of_values_up_to_1(cls, values: list[float], info: ValidationInfo) -> list[float]:
        low = LEAST_STD if info.field_name == "std" else 0
        if any(value > 1 for value in values):
            raise ValueError(f"of pixel values scaled to [0, 1]; divide by 255: {[round(v / 255, 4) for v in values]}")
        if any(value < low for value in values):
            raise ValueError(f"must be {low} to 1, of pixel values scaled to [0, 1]")
        return values

    @field_validator("options")
    @classmethod
    def _for_sources_of_ones_own(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if options and not is_reference(str(info.data.get("source"))):
            raise ValueError("are for your own source, module:function; leave them out")
        return options

    @field_validator("collate")
    @classmethod
    def _one_reference(cls, collate: Any) -> Any:
        return check_references([collate])[0] if collate else collate

    @field_validator("hold_out")
    @classmethod
    def _a_number_or_a_fraction(cls, hold_out: float) -> float:
        if hold_out > 1 and not hold_out.is_integer():
            raise ValueError("a whole number of examples of each class, or below 1 a fraction of them")
        return hold_out

    @field_validator("root", "hold_out")
    @classmethod
    def _for_sources_of_files(cls, value: str | float, info: ValidationInfo) -> str | float:
        source = info.data.get("source")
        if source in WITHOUT_FILES and value:
            raise ValueError(f"data.source={source} reads no files; leave this key out")
        if source in OF_FILES and value == "":
            raise ValueError(f"data.source={source} needs the folder that holds its files")
        return value

    @field_validator("eval_resize")
    @classmethod
    def _large_enough_to_cut(cls, side: int, info: ValidationInfo) -> int:
        image_size = info.data.get("image_size", 0)
        if 0 < side < image_size:
            raise ValueError(f"a centre of data.image_size={image_size} cannot be cut out of less; give more, or 0")
        return side

    @field_validator("background")
    @classmethod
    def _known_colour(cls, colour: str) -> str:
        if colour != "ignore":
            try:
                ImageColor.getrgb(colour)
            except ValueError:
                raise ValueError('no colour; write a name (white), "#808080" or ignore') from None
        return colour

    @property
    def rules(self) -> Rules:
        """How every image is read."""
        background = None if self.background == "ignore" else ImageColor.getrgb(self.background)[:3]
        return Rules(self.orientation == "apply", background, self.max_pixels)

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, augment: Augmentations) -> Augmentations:
        build_augmentations(augment)
        return augment
