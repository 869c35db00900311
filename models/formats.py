"""Files of weights as tensors: safetensors, and by :data:`OTHERS` those of other programs. Nothing is unpickled."""

from __future__ import annotations

import errno
import stat
from importlib import import_module
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize

OTHERS = {
    b"\n": "models.ckpt",  # field 1 of a protobuf message
}
"""By the first bytes of a file, the module whose ``read`` makes tensors of its content; imported when one is met."""
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
# Names of types; BF16 is the upper half of a float32.
_TYPES = {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_TYPES |= {"F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool", "BF16": "uint16"}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a file whose first bytes, not its name, say what it is.

    Raises:
        OSError: when it cannot be read.
        ValueError: no readable safetensors file or ``.ckpt``, in one line.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    content = path.read_bytes()
    try:
        if content[8:9] == b"{":  # eight bytes of length, then JSON
            return {name: _of_safetensors(name, **one) for name, one in sorted(deserialize(content))}
        for magic, module in OTHERS.items():
            if content.startswith(magic):
                return import_module(module).read(content)
        reason = "unknown first bytes" if content else "it is empty"
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:  # also types that NumPy lacks
        reason = " ".join(str(error).split())
    for magic, explanation in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise ValueError(f"path: {str(path)!r} {explanation}")
    raise ValueError(f"path: {str(path)!r} is not a readable safetensors file or MindSpore .ckpt ({reason})")


def _of_safetensors(name: str, dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype not in _TYPES:
        raise ValueError(f"{name!r} has the type {dtype!r}, which is not read")
    return widened(np.frombuffer(data, _TYPES[dtype]), dtype == "BF16").reshape(shape)


def widened(array: np.ndarray, is_bfloat16: bool) -> np.ndarray:
    """Return ``array``; of bfloat16, given as uint16, the same values in float32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else array
