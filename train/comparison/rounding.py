"""How far float32 rounding alone can carry one update from its exact value. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Below the smallest normal number a kernel may flush to zero (MindSpore's CPU kernels do), so no unit is smaller.
_SMALLEST_UNIT = float(np.finfo(np.float32).tiny)

BOUND_UNITS = 1.0
"""The largest error that rounding can explain, in the units of :func:`rounding_unit`."""


def rounding_unit(W_start: FloatArray, v: FloatArray, lr: np.float32, W_new: FloatArray) -> NDArray[np.float64]:
    """One unit in the last place of the largest of |W_start|, |lr·v| and |W_new|, element by element.

    A kernel that works in float32 rounds twice, p = fl(lr·v) and W_new = fl(W_start − p), or once if it fuses the
    two (FMA). Round-to-nearest errs by at most half a unit in the last place of its result (Higham, "Accuracy and
    Stability of Numerical Algorithms", 2nd ed., section 2.2), so

        |W_new − (W_start − lr·v)| ≤ ½ ulp(p) + ½ ulp(W_new) ≤ 1 ulp(max(|W_start|, |p|, |W_new|)).

    Arguments are float32 arrays of one shape and a float32 scalar; the result is float64 of that shape, nowhere
    below float32's smallest normal number (2**-126), and NaN where an argument is not finite.
    """
    with np.errstate(all="ignore"):
        largest = np.maximum(np.maximum(np.abs(W_start), np.abs(lr * v)), np.abs(W_new))
        return np.maximum(np.spacing(largest).astype(np.float64), _SMALLEST_UNIT)


def update_error(
    W_start: FloatArray, v: FloatArray, lr: np.float32, W_new: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|W_new − (W_start − lr·v)|: absolute, and in units of :func:`rounding_unit`. Both float64, of W's shape.

    The exact value is computed in float64. The product of two float32 numbers is exact there; the difference is
    too wherever the bound can be reached, and elsewhere its error (2**-53, relative) is far below the slack.
    """
    with np.errstate(all="ignore"):
        exact = W_start.astype(np.float64) - np.float64(lr) * v.astype(np.float64)
        absolute = np.abs(W_new.astype(np.float64) - exact)
        return absolute, absolute / rounding_unit(W_start, v, lr, W_new)
