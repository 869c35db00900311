"""What a file of weights says of its model, so that it alone is enough to build the model and to feed it.

It stands in the metadata of ``model.safetensors`` and, for what reads no safetensors, as ``model.json`` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError, safe_open

from models.weights import list_names
from train.data import statistics
from train.data.example import Example, Tree, leaves
from train.data.options import DataConfig
from train.data.source import PASSED_ON, Facts, look_alike
from train.data.view import View
from train.recipe.sections import ModelConfig
from train.runtime import packages
from train.runtime.errors import UserError
from train.runtime.keys import Count, Positive, PositiveInt, Section, first_problem, parse_json
from train.step.options import StepOptions

CARD_FILE = "model.json"
METADATA_KEY = "model"
AS_IN_DATA = ("image_size", "eval_resize", "orientation", "background", "max_pixels")
"""What a card takes over from the section ``data`` of a recipe."""


class InputCard(Section):
    """One input of a model: in a batch it is an array (n, *shape)."""

    name: str
    """of its parameter; empty where inputs have no names"""
    shape: list[int | None]
    """null: an axis whose length differs"""
    dtype: str

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        if dtype not in PASSED_ON:
            raise ValueError(f"{dtype!r} is not one of {', '.join(PASSED_ON)}")
        return dtype


class ModelCard(Section):
    """A model, what its images have to look like, and what its classes are called."""

    format: Literal[1] = 1
    name: str
    """As ``model.name`` of a recipe; "module:name" is code of whoever trained it."""
    options: dict[str, Any]
    num_classes: PositiveInt
    channels: PositiveInt
    class_names: list[str]
    """Of class 0, 1, …; empty where the data set names none."""
    image_size: PositiveInt
    """Height and width in pixels."""
    eval_resize: Count
    """Shorter side before the centre is cut out; 0: ``image_size``."""
    orientation: Literal["apply", "ignore"]
    background: str
    max_pixels: PositiveInt
    """As in the section ``data`` of a recipe."""
    mean: list[float]
    """Of each channel, values in [0, 1]; empty for arrays that reach the model as they are."""
    std: list[Positive]
    precision: Literal["fp32", "fp16", "bf16"]
    """What convolutions and products are computed in; the weights are float32."""
    batch_norm: Literal["mixed", "fp32"]
    inputs: list[InputCard] = Field(min_length=1)
    """In the order in which they are given."""
    gives: Literal["classes", "values"]
    """What the outputs are: logits of classes, or whatever the loss of the run compares with its targets."""
    versions: dict[str, str]
    """Of Python and of the packages that it was trained with."""

    @model_validator(mode="after")
    def _one_number_for_each(self) -> ModelCard:
        if not len(self.mean) == len(self.std) or len(self.mean) not in (0, self.channels):
            raise ValueError(f"mean and std need one number for each of {self.channels} channels, or none")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} names for {self.num_classes} classes")
        self._options()
        return self

    @classmethod
    def describe(
        cls, model: ModelConfig, data: DataConfig, step: StepOptions, source: Facts, example: Example
    ) -> ModelCard:
        """Describe the model of a run, from three sections of its recipe, the source of its examples and what these
        look like in a batch.

        Raises:
            UserError: where what the source says of itself does not agree.
        """
        mean, std = statistics(data, source)
        inputs = zip(_names(example.inputs), leaves(example.inputs), strict=True)
        try:
            return cls(
                name=model.name,
                options=model.options,
                num_classes=source.num_classes,
                channels=source.channels,
                class_names=[str(name) for name in getattr(source, "class_names", ())],
                mean=[float(value) for value in mean],
                std=[float(value) for value in std],
                precision=step.precision,
                batch_norm=step.batch_norm,
                inputs=[InputCard(name=name, shape=list(one.shape), dtype=one.dtype.name) for name, one in inputs],
                gives="classes" if getattr(example.targets, "is_class", False) else "values",
                versions=packages.versions(),
                **{key: getattr(data, key) for key in AS_IN_DATA},
            )
        except ValidationError as error:
            raise UserError(f"data.source={data.source}: {first_problem(error)}") from None

    def view(self) -> View:
        """Return what prepares an image as in the run's evaluation."""
        options = self._options()
        return View(options.image_size, options.eval_resize or None, (), options.rules)

    def _options(self) -> DataConfig:
        """The keys of a recipe that say the same, so that no card holds what no recipe may."""
        try:
            return DataConfig(source="synthetic", **{key: getattr(self, key) for key in (*AS_IN_DATA, "mean", "std")})
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None

    @property
    def takes_images(self) -> bool:
        """Whether one image is all that it takes."""
        return bool(self.mean) and len(self.inputs) < 2

    def to_json(self) -> str:
        return json.dumps(self.model_dump(), allow_nan=False)

    def refuse_other_classes(self, names: Sequence[str], origin: str, remedy: str) -> None:
        """Raise a :class:`UserError` where ``names``, if both sides have any, are others or in another order."""
        here = list(names)
        if not here or not self.class_names or here == self.class_names:
            return
        if len(here) != len(self.class_names):
            difference = f"{len(self.class_names)} classes ({list_names(self.class_names)}), not {len(here)}"
        else:
            label = next(label for label, name in enumerate(here) if name != self.class_names[label])
            shown = ascii if look_alike(self.class_names[label], here[label]) else repr
            difference = f"class {label} is {shown(self.class_names[label])} there and {shown(here[label])} here"
        raise UserError(f"{origin}: made for other classes, or for another order of them: {difference}; {remedy}")


def _names(tree: Tree) -> list[str]:
    return list(map(str, tree)) if isinstance(tree, Mapping) else [""] * len(leaves(tree))


def parse_card(text: str, origin: object) -> ModelCard:
    """Read back what :meth:`ModelCard.to_json` made; ``origin`` is named in errors.

    Raises:
        UserError: for anything else.
    """
    try:
        return parse_json(ModelCard, text)
    except ValueError as error:
        words = " ".join(str(error).split())
        raise UserError(f"{origin}: its description of the model is not readable ({words})") from None


def read_card(path: Path) -> ModelCard | None:
    """Return what the safetensors file ``path`` says of its model; None where a run has not written it.

    Raises:
        UserError: when it says something unreadable.
    """
    if not path.is_file():  # a pipe would be waited for; whoever reads the weights says so
        return None
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError):  # another format, or damaged: whoever reads the weights says which
        return None
    return None if text is None else parse_card(text, path)
