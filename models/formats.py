"""Files of weights as tensors: safetensors, and MindSpore's ``.ckpt``. Nothing is unpickled."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor
from safetensors import SafetensorError
from safetensors.numpy import load_file

_PICKLE = (
    "is a pickle, as PyTorch's .pth are, and is not read, since a pickle can run code; with PyTorch, "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors') makes a file that is"
)
_OTHER_FORMATS = {
    b"PK\x03\x04": _PICKLE,  # a zip archive: .pth since PyTorch 1.6
    b"\x80": _PICKLE,
    b"version https://git-lfs": "is a pointer of Git LFS, not the weights; git lfs pull fetches them",
}
"""First bytes of other files that people have, and what to tell them."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a file whose first bytes, not its name, say what it is.

    Raises:
        ValueError: no readable safetensors file or ``.ckpt``, in one line.
    """
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(32)
        if start[8:9] == b"{":  # eight bytes of length, then JSON
            return load_file(path)
        if start[:1] == b"\n":  # field 1 of a protobuf message
            return _read_ckpt(path)
        reason = "unknown first bytes" if start else "it is empty"
    except (OSError, SafetensorError, TypeError, ValueError) as error:  # TypeError: a type NumPy lacks, as bfloat16
        reason = " ".join(str(error).split())
    for magic, explanation in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ValueError(f"path: {str(path)!r} {explanation}")
    raise ValueError(f"path: {str(path)!r} is not a readable safetensors file or MindSpore .ckpt ({reason})")


def _read_ckpt(path: Path) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / "weights.ckpt"  # MindSpore goes by the ending
        named.symlink_to(path.resolve())
        try:
            values = ms.load_checkpoint(str(named))
        except ValueError as error:  # its message names the link
            raise ValueError("damaged or encrypted") from error
    # Beside tensors there may be text of the writer's.
    tensors = {name: value.asnumpy() for name, value in values.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("damaged, or it holds no tensors")
    return tensors
