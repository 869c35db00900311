"""The section ``data`` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from train.data.augment import build_augmentations
from train.errors import near_matches
from train.keys import FREE, LOCAL, Count, Positive, PositiveInt, Section, is_reference

Augmentations = list[str | dict[str, dict[str, Any]]]

OF_FILES = ("cifar10", "image_folder", "mindrecord")
WITHOUT_FILES = ("digits", "synthetic")


class DataConfig(Section):
    source: str = Field("digits", description=f"{', '.join((*OF_FILES, *WITHOUT_FILES))}, or yours as module:function")
    root: Annotated[str, LOCAL] = Field(
        "", validate_default=True, description="folder of the data set, for sources that read files"
    )
    hold_out_per_class: Count = Field(0, description="hold out the last examples of each class where there is no val")
    image_size: PositiveInt = Field(16, description="height and width of the images given to the model, in pixels")
    eval_resize: Count = Field(0, description="shorter side before evaluation's centre crop; 0: image_size")
    augment: Augmentations = Field([], description="in this order: train/data/README.md")
    mean: list[float] = Field([], description="of each channel, values in [0, 1]; empty: the source's own")
    std: list[Positive] = Field([], description="as mean")
    global_batch: PositiveInt = Field(128, description="images of one update, summed over all ranks")
    eval_batch: Annotated[PositiveInt, FREE] = Field(120, description="images of one evaluation step on each rank")
    on_bad_image: Literal["fail", "skip"] = Field("fail", description="what a file that cannot be decoded does")
    bad_image_limit: Count = Field(100, description="files that each rank may skip")
    workers: Annotated[Count, LOCAL] = Field(
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

    @field_validator("root", "hold_out_per_class")
    @classmethod
    def _for_sources_of_files(cls, value: str | int, info: ValidationInfo) -> str | int:
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

    @field_validator("augment")
    @classmethod
    def _known_augmentations(cls, augment: Augmentations) -> Augmentations:
        build_augmentations(augment)
        return augment
