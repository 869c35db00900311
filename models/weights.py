"""Weights travel: in from torchvision, timm, MindSpore or a run of ours, out with torchvision's and timm's names.

Layers are named as there already; only batch normalisation calls its four tensors differently. Nothing is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn
from safetensors import SafetensorError
from safetensors.numpy import save_file

from models.formats import read_tensors

Tensors = dict[str, np.ndarray]
Targets = Mapping[str, Parameter]
Tell = Callable[[str], None]

VARIANCE = "moving_variance"
_TORCH_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    VARIANCE: "running_var",
}
# What is no weight of a model: counts of updates, and what MindSpore's checkpoints hold of an optimizer.
_COUNTS = ("*.num_batches_tracked", "*.passes")  # the latter of train.step.dropout.Dropout
_NO_WEIGHTS = (
    *(*_COUNTS, "moments.*", "moment1.*", "moment2.*", "beta1_power", "beta2_power"),
    *("global_step", "learning_rate", "momentum", "epoch_num", "step_num"),
)


def load_weights(
    model: nn.Cell,
    path: str | os.PathLike[str],
    *,
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    strict: bool = True,
    grey_stem: str = "",
    tell: Tell = print,
) -> list[str]:
    """Fill a model with the weights of a file; all of them, or none if the file does not fit.

    The head, the model's last ``nn.Dense``, keeps its initial values where the file's was made for another number of
    classes. A prefix that all names of the file share and none of the model's has, as ``module.``, is taken off. Values
    are converted to each parameter's own type.

    Args:
        model: a model of ``models.create_model``, or any cell; changed in place.
        path: safetensors or MindSpore's ``.ckpt``, which its first bytes tell; with the names of torchvision and timm,
            or with MindSpore's, as a run saves them.
        drop: names of the file to leave out, as globs (``fc.*``); they are looked for after renaming.
        rename: beginnings of names and what stands for them, ``{"classifier.": "fc."}``; the first that fits a name.
        strict: whether a name that is missing in the file, or unexpected in it, is an error. Shapes always are.
        grey_stem: ``sum`` adds up the input channels of a first convolution for RGB where the model takes one channel.
        tell: is given a line about each thing done that was not asked for by name.

    Returns:
        The names (as in the file) that kept their initial values: those of the head, dropped or missing.

    Raises:
        OSError: when the file cannot be read.
        ValueError: no file of weights; names, shapes or kinds of numbers that do not fit; NaN or infinity once it is of
            the parameter's type, or a variance below 0; a glob of ``drop`` or a beginning of ``rename`` that fits no
            name. One line, with five names of a kind at most.
    """
    path = Path(path)
    if grey_stem not in ("", "sum"):
        raise ValueError(f"grey_stem: {grey_stem!r} is not allowed; give sum, or leave it out")
    tensors = read_tensors(path)
    own_names = any(name.rpartition(".")[2] in _TORCH_LEAVES for name in tensors)
    targets = model.parameters_dict() if own_names else _torch_names(model)
    inside = _common_prefix(targets, tensors)  # of a model that is a part of another, as a teacher
    targets = {name.removeprefix(inside): parameter for name, parameter in targets.items()}
    tensors, dropped = _prepare(tensors, targets, drop, rename or {}, grey_stem, tell)
    kept = {*dropped}
    head = [name.removeprefix(inside) for name in head_of(model)]
    if head and all(_is_for_other_classes(name, targets, tensors) for name in head):
        kept.update(head)
    missing = [name for name in targets if name not in tensors and name not in kept and not _fits(name, _COUNTS)]
    unexpected = [name for name in tensors if name not in targets]
    if not strict:
        kept.update(missing)
        if unexpected:
            tell(f"in the file and not in the model: {list_names(unexpected)}")
        missing, unexpected = [], []
    taken = {name: tensors[name] for name in targets if name in tensors and name not in kept}
    _check(path, targets, taken, missing, unexpected)
    for name, value in _converted(path, targets, taken).items():
        targets[name].set_data(Tensor(value))
    return [name for name in targets if name in kept]


def head_of(model: nn.Cell) -> list[str]:
    """The names of the parameters of the last linear layer, in the order of the model's cells; empty if it has none."""
    last = [cell for _, cell in model.cells_and_names() if isinstance(cell, nn.Dense)][-1:]
    return [parameter.name for cell in last for parameter in cell.get_parameters()]


def list_names(names: Iterable[str]) -> str:
    """The first five, and how many more there are; what a file calls a name is kept on its line."""
    names = [name if name.isprintable() else repr(name)[1:-1] for name in names]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def export_weights(model: nn.Cell, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's weights and moving statistics to a safetensors file with torchvision's names.

    PyTorch's ``load_state_dict(..., strict=True)`` takes the file's tensors; the types are those of the parameters.

    Args:
        model: a model of ``models.create_model``.
        path: the file to write. An older file is replaced once the new one is complete.
        metadata: more of it than that the file is PyTorch's (``{"format": "pt"}``).

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    # safetensors writes the memory as it lies, so it has to be contiguous.
    tensors = {name: np.ascontiguousarray(value.asnumpy()) for name, value in _torch_names(model).items()}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt", **(metadata or {})})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"path: {str(path)!r} cannot be written ({error})") from error


def _torch_names(model: nn.Cell) -> dict[str, Parameter]:
    """Parameters under PyTorch's names."""
    # Not parameters_and_names: its names are paths through the cells, and mixed precision wraps those of BatchNorm.
    split = [(name.rpartition("."), parameter) for name, parameter in model.parameters_dict().items()]
    return {f"{layer}{dot}{_TORCH_LEAVES.get(leaf, leaf)}": parameter for (layer, dot, leaf), parameter in split}


def _prepare(
    tensors: Tensors, targets: Targets, drop: Sequence[str], rename: Mapping[str, str], grey_stem: str, tell: Tell
) -> tuple[Tensors, set[str]]:
    """The tensors to be loaded, under the names that the model may have, and the names of those left out."""
    tensors = {name: value for name, value in tensors.items() if name in targets or not _fits(name, _NO_WEIGHTS)}
    tensors = _strip_prefix(_rename(tensors, rename), targets, tell)
    for glob in drop:
        if not any(fnmatchcase(name, glob) for name in tensors):
            raise ValueError(f"drop: {glob!r} fits no name of the file; it has {list_names(tensors)}")
    dropped = {name for name in tensors if _fits(name, drop)}
    tensors = {name: value for name, value in tensors.items() if name not in dropped}
    return _sum_stem(tensors, targets, tell) if grey_stem else tensors, dropped


def _fits(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _rename(tensors: Tensors, rename: Mapping[str, str]) -> Tensors:
    for old in rename:
        if not any(name.startswith(old) for name in tensors):
            raise ValueError(f"rename: no name of the file begins with {old!r}; it has {list_names(tensors)}")
    renamed: Tensors = {}
    for name, value in tensors.items():
        old = next((old for old in rename if name.startswith(old)), "")
        new = rename.get(old, "") + name.removeprefix(old)
        if new in renamed:
            raise ValueError(f"rename: two names of the file become {new!r}")
        renamed[new] = value
    return renamed


def _strip_prefix(tensors: Tensors, targets: Targets, tell: Tell) -> Tensors:
    """Take off what wrappers put before every name, one part after the other: ``module.``, ``model.``."""
    stripped = _common_prefix(tensors, targets)
    if stripped:
        tell(f"every name in the file begins with {stripped!r}, which is taken off")
    return {name.removeprefix(stripped): value for name, value in tensors.items()}


def _common_prefix(names: Iterable[str], others: Iterable[str]) -> str:
    """Return what all ``names`` begin with, in whole parts, and none of ``others``."""
    names, prefix = list(names), ""
    while names:
        longer = prefix + names[0].removeprefix(prefix).partition(".")[0] + "."
        if not all(name.startswith(longer) for name in names) or any(
            name.startswith(longer.removeprefix(prefix)) for name in others
        ):
            break
        prefix = longer
    return prefix


def _sum_stem(tensors: Tensors, targets: Targets, tell: Tell) -> Tensors:
    """A grey image is three equal channels, so its one channel has the sum of their weights."""
    summed = {
        name: value.sum(1, np.float32, keepdims=True)
        for name, value in tensors.items()
        if value.ndim == 4 and value.shape[1] == 3 and name in targets
        if targets[name].shape == (len(value), 1, *value.shape[2:])
    }
    if not summed:
        raise ValueError("grey_stem: no weight for three channels in the file meets one for one channel in the model")
    tell(f"summed over the input channels: {list_names(summed)}")
    return tensors | summed


def _is_for_other_classes(name: str, targets: Targets, tensors: Tensors) -> bool:
    if name not in targets or name not in tensors:
        return False
    ours, theirs = targets[name].shape, tensors[name].shape
    return len(ours) == len(theirs) and ours[0] != theirs[0] and ours[1:] == theirs[1:]


def _check(path: Path, targets: Targets, taken: Tensors, missing: list[str], unexpected: list[str]) -> None:
    shapes = [(name, value.shape, targets[name].shape) for name, value in taken.items()]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "mis-shaped": [f"{name} {theirs}, not {ours}" for name, theirs, ours in shapes if theirs != ours],
        "of another kind": [
            f"{name} {value.dtype}" for name, value in taken.items() if value.dtype.kind != _dtype(targets[name]).kind
        ],
    }
    found = "; ".join(f"{kind}: {list_names(names)}" for kind, names in problems.items() if names)
    if not taken and not found:
        found = "no name in common"
    if found:
        raise ValueError(f"path: {str(path)!r} does not fit the model, nothing was loaded ({found})")


def _converted(path: Path, targets: Targets, taken: Tensors) -> Tensors:
    """Return the tensors in the types of the parameters, in which they have to be what a model can hold."""
    with np.errstate(over="ignore"):
        taken = {name: np.array(value, _dtype(targets[name])) for name, value in taken.items()}
    if damaged := [name for name, value in taken.items() if not np.isfinite(value).all()]:
        raise ValueError(f"path: {str(path)!r} has NaN or infinity in {list_names(damaged)}; nothing was loaded")
    variances = {name: taken[name] for name in taken if targets[name].name.endswith(VARIANCE)}
    if damaged := [name for name, value in variances.items() if (value < 0).any()]:
        raise ValueError(f"path: {str(path)!r} has variances below 0 in {list_names(damaged)}; nothing was loaded")
    return taken


def _dtype(parameter: Parameter) -> np.dtype:
    return np.dtype(str(parameter.dtype).lower())
