"""The section ``data`` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from PIL import ImageColor
from pydantic import Field, ValidationInfo, field_validator

from train.data.augment import build_augmentations
from train.data.images import Rules
from train.runtime.errors import near_matches
from train.runtime.keys import MAY_CHANGE, MAY_DIFFER, Count, PositiveInt, Section, is_reference

Augmentations = list[Any]
"""Each a name, or a mapping of one name to its options."""

OF_FILES = ("cifar10", "image_folder", "mindrecord")
WITHOUT_FILES = ("digits", "synthetic")


class DataConfig(Section):
    source: str = Field("digits", description=f"{', '.join((*OF_FILES, *WITHOUT_FILES))}, or yours as module:function")
    root: Annotated[str, MAY_DIFFER] = Field(
        "", validate_default=True, description="folder of the data set, for sources that read files"
    )
    hold_out_per_class: Count = Field(0, description="hold out the last examples of each class where there is no val")
    hold_out: float = Field(0.0, ge=0, lt=1, description="the same as a fraction of each class, e.g. 0.1")
    classes: Any = Field(
        "name", description="order of image_folder's classes: name, natural (2 before 10), or {folder: number, …}"
    )
    allow_empty: bool = Field(False, description="keep the number of image_folder's classes without images")
    image_size: PositiveInt = Field(16, description="height and width of the images given to the model, in pixels")
    eval_resize: Count = Field(0, description="shorter side before evaluation's centre crop; 0: image_size")
    augment: Augmentations = Field([], description="in this order: train/data/README.md")
    mean: list[float] = Field([], description="of each channel, values in [0, 1]; empty: the source's own")
    std: list[float] = Field([], description="as mean")
    global_batch: PositiveInt = Field(128, description="images of one update, summed over all ranks")
    eval_batch: Annotated[PositiveInt, MAY_CHANGE] = Field(
        120, description="images of one evaluation step on each rank"
    )
    orientation: Literal["apply", "ignore"] = Field("apply", description="turn photographs as their EXIF data says")
    background: str = Field("white", description='behind transparent places: white, "#808080"; ignore: as stored')
    max_pixels: PositiveInt = Field(100_000_000, description="an image of more counts as one that cannot be decoded")
    max_text: PositiveInt = Field(1 << 20, description="bytes of text or colour profile that a PNG may hold, unpacked")
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="what a file that cannot be decoded does")
    bad_image_limit: Count = Field(100, description="files that each rank may skip")
    workers: Annotated[Count, MAY_DIFFER] = Field(
        0, description="threads that read images on each rank; 0: as many as it has cores"
    )
    synthetic_examples: PositiveInt = Field(12_800, description="training images of source synthetic")
    synthetic_classes: PositiveInt = Field(1000, description="classes of source synthetic")

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source not in (*OF_FILES, *WITHOUT_FILES) and not is_reference(source):
            raise ValueError(near_matches(source, (*OF_FILES, *WITHOUT_FILES)))
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
        low = "above 0" if info.field_name == "std" else "0"
        if any(value > 1 for value in values):
            raise ValueError(f"of pixel values scaled to [0, 1]; divide by 255: {[round(v / 255, 4) for v in values]}")
        if any(value < 0 or (value == 0 and info.field_name == "std") for value in values):
            raise ValueError(f"must be {low} to 1, of pixel values scaled to [0, 1]")
        return values

    @field_validator("root", "hold_out_per_class", "hold_out")
    @classmethod
    def _for_sources_of_files(cls, value: str | float, info: ValidationInfo) -> str | float:
        if info.field_name == "hold_out" and value and info.data.get("hold_out_per_class"):
            raise ValueError("data.hold_out_per_class says how many already; leave one of both out")
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
