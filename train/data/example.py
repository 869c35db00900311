"""What an example looks like: the shape and dtype of each input and each target, which its source declares once.

Inputs and targets are each one array, a tuple of arrays, or a mapping of names to arrays. Such a tuple or mapping is
called a tree here, and its arrays are its leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Tree = Any
"""One leaf, a tuple of leaves, or a mapping of names to leaves."""


@dataclass(frozen=True)
class Field:
    """Shape and dtype of one input or one target of an example, without an axis of examples.

    ``None`` stands for an axis whose length differs between examples. Images are uint8 (height, width, channels), as
    they are read; ``Field((None, None, 3), "uint8")`` are RGB images of any size, encoded ones too.
    """

    shape: tuple[int | None, ...]
    dtype: Any
    """whatever NumPy takes for one"""
    over_image: bool = True
    """of a target whose last two axes are the image's height and width: whether it lies over the image, as a mask does,
    and is cut, resized and flipped with it"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def __str__(self) -> str:
        return f"{self.dtype} {str(self.shape).replace('None', 'any')}"

    def fits(self, array: np.ndarray) -> bool:
        """Whether ``array`` has this dtype and shape."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(wanted in (None, found) for found, wanted in zip(array.shape, self.shape, strict=True))
        )

    @property
    def is_image(self) -> bool:
        """Whether it is an image, if its source's inputs are images."""
        return self.dtype == np.uint8 and len(self.shape) == 3

    @property
    def is_class(self) -> bool:
        return self.shape == () and self.dtype.kind in "iu"

    @property
    def batched(self) -> Field:
        """As batches hold it, if it is a target: classes are int32, and float64 becomes float32, as devices have it."""
        if self.is_class:
            return Field((), np.int32)
        return Field(self.shape, np.float32) if self.dtype == np.float64 else self

    def blank(self, count: int) -> np.ndarray:
        """Return what stands for ``count`` examples that there are not: -1 for a class, else zeros."""
        return np.full((count, *self.shape), -1 if self.is_class else 0, self.dtype)  # type: ignore[arg-type]


class Example(NamedTuple):
    """Inputs and targets: of an example trees of arrays, of what a source declares trees of :class:`Field`."""

    inputs: Tree
    targets: Tree

    @property
    def leaves(self) -> list[Any]:
        """Of the inputs, then of the targets."""
        return [*leaves(self.inputs), *leaves(self.targets)]

    @property
    def titles(self) -> list[str]:
        """What messages call each leaf: input, input 1, target mask."""
        kinds = (("input", self.inputs), ("target", self.targets))
        return [f"{kind} {name}".rstrip() for kind, tree in kinds for name in _by_name(tree)]

    def holding(self, new: list[Any]) -> Example:
        """Return an example of this form, of ``new`` leaves."""
        following = iter(new)
        return Example(*(map_leaves(lambda _: next(following), tree) for tree in self))

    def leaves_of(self, other: Any) -> list[Any]:
        """Return the leaves of another example of this form, in this order.

        Raises:
            ValueError: when it has another form.
        """
        if not isinstance(other, tuple) or len(other) != 2:
            raise ValueError(f"is {form(other)} instead of inputs and targets, a tuple of 2")
        found: list[Any] = []
        for kind, declared, tree in zip(("inputs", "targets"), self, other, strict=True):
            wanted, given = _by_name(declared), _by_name(tree)
            if wanted.keys() != given.keys():
                raise ValueError(f"has {form(tree)} as {kind} instead of {form(declared)}")
            found += [given[name] for name in wanted]
        return found


def _by_name(tree: Tree) -> Mapping[Any, Any]:
    """Return the leaves of a tree by their names: those of a tuple are numbers, the name of a lone leaf is empty."""
    if isinstance(tree, Mapping):
        return tree
    return dict(enumerate(tree)) if isinstance(tree, tuple) else {"": tree}


def leaves(tree: Tree) -> list[Any]:
    return list(_by_name(tree).values())


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return a tree of the same form, of ``function`` of each leaf."""
    if isinstance(tree, Mapping):
        return {name: function(leaf) for name, leaf in tree.items()}
    return tuple(function(leaf) for leaf in tree) if isinstance(tree, tuple) else function(tree)


def form(tree: Tree) -> str:
    """Say in words what a tree or an array is."""
    if isinstance(tree, Mapping):
        return f"a mapping with {', '.join(map(str, tree)) or 'nothing'}"
    if type(tree) is tuple:
        return f"a tuple of {len(tree)}"
    if isinstance(tree, np.ndarray | np.generic):
        return str(Field(tree.shape, tree.dtype))
    return str(tree) if isinstance(tree, Field) else f"a {type(tree).__name__}"


def as_array(leaf: Any, field: Field) -> Any:
    """Return numbers of Python, which have no dtype, in that of ``field`` where it holds them; all else as it is."""
    if isinstance(leaf, int | float) and (field.dtype.kind == "f" or np.asarray(leaf).astype(field.dtype) == leaf):
        return np.asarray(leaf, field.dtype)
    return leaf
