"""The pixels of a Pillow image where they lie, without a copy.

Pillow holds an RGB image as four bytes a pixel. From version 11.2 on it shows them through the Arrow C data interface,
as an array of lists of four uint8. Packing them to three, as ``np.asarray`` does, costs a sixth of decoding a JPEG.
"""

from __future__ import annotations

import ctypes

import numpy as np
from PIL import Image


class _ArrowArray(ctypes.Structure):
    """The first members of ``struct ArrowArray``, as the Arrow C data interface fixes them."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

# A prototype of its own: the attributes of ``ctypes.pythonapi`` are everybody's, and others give them other types.
_pointer_of = ctypes.PYFUNCTYPE(ctypes.POINTER(_ArrowArray), ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Shown:
    """Memory that NumPy reads in place; the capsule keeps it alive as long as there is an array of it."""

    def __init__(self, capsule: object, shape: tuple[int, ...]):
        values = _pointer_of(capsule, b"arrow_array").contents.children[0].contents
        self.capsule = capsule
        self.__array_interface__ = {"data": (values.buffers[1], True), "shape": shape, "typestr": "|u1", "version": 3}


def rgbx(image: Image.Image) -> np.ndarray:
    """Return a decoded RGB image as uint8 (height, width, 4), the fourth channel without a meaning.

    Read-only and without a copy, but for images above 16 MB, which Pillow holds in pieces, and for an older Pillow.
    """
    shape = (image.height, image.width, 4)
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):
        return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(shape)
    return np.asarray(_Shown(capsule, shape))
