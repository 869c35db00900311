"""MindSpore's ``.ckpt``: ``Checkpoint {value: [{tag, tensor: {dims, tensor_type, tensor_content}}]}``.

Nothing of a file reaches native code before its type, dimensions and length agree: MindSpore's own reader compares none
of them.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from google.protobuf.message import DecodeError
from mindspore.train.checkpoint_pb2 import Checkpoint

from models.formats import widened
from models.protobuf import fields

# bfloat16 is the upper half of a float32.
_TYPES = {f"{kind}{bits}": f"{kind}{bits}".lower() for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
_TYPES |= {"Float16": "float16", "Float32": "float32", "Float64": "float64", "Bool": "bool", "BFloat16": "uint16"}
_MOST_TENSORS = 100_000
_CRC = b"crc_num"  # before the ten bytes of a checksum at a file's end


def read(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name.

    Raises:
        ValueError: when it is damaged, encrypted, or holds something other than tensors.
    """
    if content[-17:-10] == _CRC:
        content, checksum = content[:-17], int.from_bytes(content[-10:], "big")
        if checksum != zlib.crc32(content):
            raise ValueError("damaged, its checksum does not match")
    for count, (number, _) in enumerate(fields(memoryview(content))):
        if number != 1 or count == _MOST_TENSORS:
            raise ValueError("damaged or encrypted" if number != 1 else "too many tensors")
    try:
        stored = Checkpoint.FromString(content)
    except DecodeError:
        raise ValueError("damaged or encrypted") from None
    found: dict[str, tuple[list[int], str, list[bytes]]] = {}
    for value in stored.value:
        dims, kind = list(value.tensor.dims), value.tensor.tensor_type
        if kind == "str":  # of the writer's, beside the tensors
            continue
        # What is larger than 512 MB is cut into parts, each with the dimensions of all.
        *before, parts = found.setdefault(value.tag, (dims, kind, []))
        if before != [dims, kind]:
            raise ValueError(f"damaged, {value.tag!r} occurs twice")
        parts.append(value.tensor.tensor_content)
    if not found:
        raise ValueError("damaged, or it holds no tensors")
    return {name: _array(name, *of_one) for name, of_one in found.items()}


def _array(name: str, dims: list[int], kind: str, parts: list[bytes]) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"{name!r} has the type {kind!r}, which is not read")
    shape = () if dims == [0] else tuple(dims)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    expected = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if len(data) != expected or min(shape, default=1) < 0 or len(shape) > 32:
        raise ValueError(f"damaged, {name!r} holds {len(data)} bytes for {kind} {dims}")
    return widened(np.frombuffer(data, _TYPES[kind]), kind == "BFloat16").reshape(shape)
