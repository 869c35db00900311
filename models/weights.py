"""Weights travel: safetensors files with torchvision's and timm's names, in both directions; in also with our own.

Layers are named as there already; only batch normalisation calls its four tensors differently. Nothing is unpickled.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

_TORCH_LEAVES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_HEAD = ("fc.weight", "fc.bias")
# PyTorch's count of the updates of the moving statistics; no ResNet computes with it.
_COUNTER = ".num_batches_tracked"


def load_weights(model: nn.Cell, path: str | os.PathLike[str]) -> list[str]:
    """Fill a model with the weights of a file; all of them, or none if the file does not fit.

    The head (``fc.weight``, ``fc.bias``) keeps its initial values where the file's was made for another number of
    classes. Values are converted to each parameter's own type.

    Args:
        model: a model of ``models.create_model``; changed in place.
        path: a ``.safetensors`` file with the names of torchvision or timm, or with MindSpore's, as a run saves them.

    Returns:
        The names (as in the file) that kept their initial values: the two of the head, or none.

    Raises:
        ValueError: no readable safetensors file, or missing, unexpected or mis-shaped names; all are listed.
    """
    tensors = _read(Path(path))
    own_names = any(name.rpartition(".")[2] in _TORCH_LEAVES for name in tensors)
    targets = model.parameters_dict() if own_names else _torch_names(model)
    other_classes = all(_is_for_other_classes(name, targets, tensors) for name in _HEAD)
    kept = list(_HEAD) if other_classes else []
    _check_fit(Path(path), targets, tensors, kept)
    for name, parameter in targets.items():
        if name not in kept:
            parameter.set_data(Tensor(tensors[name], parameter.dtype))
    return kept


def export_weights(model: nn.Cell, path: str | os.PathLike[str]) -> None:
    """Write a model's weights and moving statistics to a safetensors file with torchvision's names.

    PyTorch's ``load_state_dict(..., strict=True)`` takes the file's tensors; the types are those of the parameters.

    Args:
        model: a model of ``models.create_model``.
        path: the file to write. An older file is replaced once the new one is complete.

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    # safetensors writes the memory as it lies, so it has to be contiguous.
    tensors = {name: np.ascontiguousarray(value.asnumpy()) for name, value in _torch_names(model).items()}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"path: {str(path)!r} cannot be written ({error})") from error


def _torch_names(model: nn.Cell) -> dict[str, Parameter]:
    """Parameters under PyTorch's names."""
    # Not parameters_and_names: its names are paths through the cells, and mixed precision wraps those of BatchNorm.
    split = [(name.rpartition("."), parameter) for name, parameter in model.parameters_dict().items()]
    return {f"{layer}{dot}{_TORCH_LEAVES.get(leaf, leaf)}": parameter for (layer, dot, leaf), parameter in split}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type NumPy lacks, as bfloat16
        raise ValueError(f"path: {str(path)!r} is not a readable safetensors file ({error})") from error
    return {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}


def _is_for_other_classes(name: str, targets: dict[str, Parameter], tensors: dict[str, np.ndarray]) -> bool:
    if name not in targets or name not in tensors:
        return False
    ours, theirs = targets[name].shape, tensors[name].shape
    return len(ours) == len(theirs) and ours[0] != theirs[0] and ours[1:] == theirs[1:]


def _check_fit(path: Path, targets: dict[str, Parameter], tensors: dict[str, np.ndarray], kept: list[str]) -> None:
    problems = {
        "missing": [name for name in targets if name not in tensors],
        "unexpected": [name for name in tensors if name not in targets],
        "mis-shaped": [
            f"{name} {tensors[name].shape}, not {parameter.shape}"
            for name, parameter in targets.items()
            if name in tensors and name not in kept and tensors[name].shape != parameter.shape
        ],
    }
    found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
    if found:
        raise ValueError(f"path: {str(path)!r} does not fit the model, nothing was loaded ({found})")
