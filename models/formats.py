"""Files of weights as tensors: safetensors, and MindSpore's ``.ckpt``.

Nothing is unpickled, and nothing of a file reaches native code before its type, dimensions and length agree:
MindSpore's own reader of a ``.ckpt`` compares none of them.
"""

from __future__ import annotations

import errno
import math
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize

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
# MindSpore's names of types; bfloat16 is the upper half of a float32.
_TYPES = {f"{kind}{bits}": f"{kind}{bits}".lower() for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)}
_TYPES |= {"Float16": "float16", "Float32": "float32", "Float64": "float64", "Bool": "bool", "BFloat16": "uint16"}
# Those of safetensors.
_SHORT_TYPES = {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_SHORT_TYPES |= {"F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool", "BF16": "uint16"}
_MOST_TENSORS = 100_000
_CRC = b"crc_num"  # before the ten bytes of a checksum at a file's end


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
        if content[:1] == b"\n":  # field 1 of a protobuf message
            return _read_ckpt(content)
        reason = "unknown first bytes" if content else "it is empty"
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:  # also types that NumPy lacks
        reason = " ".join(str(error).split())
    for magic, explanation in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise ValueError(f"path: {str(path)!r} {explanation}")
    raise ValueError(f"path: {str(path)!r} is not a readable safetensors file or MindSpore .ckpt ({reason})")


def _of_safetensors(name: str, dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype not in _SHORT_TYPES:
        raise ValueError(f"{name!r} has the type {dtype!r}, which is not read")
    return _widened(np.frombuffer(data, _SHORT_TYPES[dtype]), dtype == "BF16").reshape(shape)


def _widened(array: np.ndarray, is_bfloat16: bool) -> np.ndarray:
    return (array.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else array


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message, in their order.

    Raises:
        ValueError: when it is none, or ends early.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        if key & 7 == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            length, place = _varint(message, place)
        elif key & 7 in (1, 5):
            length = 8 if key & 7 == 1 else 4
        else:
            raise ValueError("damaged or encrypted")
        if length > len(message) - place:
            raise ValueError("damaged, it ends early")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place == len(message):
            break
        value |= (message[place] & 127) << shift
        place += 1
        if message[place - 1] < 128:
            return value, place
    raise ValueError("damaged or encrypted")


def _read_ckpt(content: bytes) -> dict[str, np.ndarray]:
    """Read ``Checkpoint {value: [{tag, tensor: {dims, tensor_type, tensor_content}}]}``."""
    message = memoryview(content)
    if content[-17:-10] == _CRC:
        message = message[:-17]
        if int.from_bytes(content[-10:], "big") != zlib.crc32(message):
            raise ValueError("damaged, its checksum does not match")
    found: dict[str, tuple[list[int], str, list[memoryview]]] = {}
    for number, value in fields(message):
        if number != 1 or isinstance(value, int):
            raise ValueError("damaged or encrypted")
        name, dims, kind, data = _read_value(value)
        if kind == "str":  # of the writer's, beside the tensors
            continue
        # What is larger than 512 MB is cut into parts, each with the dimensions of all.
        *before, parts = found.setdefault(name, (dims, kind, []))
        if before != [dims, kind] or len(found) > _MOST_TENSORS:
            raise ValueError(f"damaged, {name!r} occurs twice" if before != [dims, kind] else "too many tensors")
        parts.append(data)
    if not found:
        raise ValueError("damaged, or it holds no tensors")
    return {name: _array(name, *of_one) for name, of_one in found.items()}


def _read_value(value: memoryview) -> tuple[str, list[int], str, memoryview]:
    try:
        one = dict(fields(value))
        dims: list[int] = []
        kind, data = "", memoryview(b"")
        for number, field in fields(one[2]):  # type: ignore[arg-type]
            if number == 1:
                dims += [field] if isinstance(field, int) else _packed(field)
            elif number == 2:
                kind = str(field, "ascii")  # type: ignore[arg-type]
            elif number == 3:
                data = field  # type: ignore[assignment]
        return str(one[1], "utf-8"), dims, kind, data  # type: ignore[arg-type]
    except (KeyError, TypeError, UnicodeDecodeError):  # not the fields that these should be
        raise ValueError("damaged, or it contains something other than tensors") from None


def _packed(data: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place)
        numbers.append(number)
    return numbers


def _array(name: str, dims: list[int], kind: str, parts: list[memoryview]) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"{name!r} has the type {kind!r}, which is not read")
    shape = () if dims == [0] else tuple(dims)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    expected = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if len(data) != expected or len(shape) > 32:
        raise ValueError(f"damaged, {name!r} holds {len(data)} bytes for {kind} {dims}")
    return _widened(np.frombuffer(data, _TYPES[kind]), kind == "BFloat16").reshape(shape)
