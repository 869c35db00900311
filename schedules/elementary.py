"""sin, 2^x, log₂ and powers that give the same bits on every processor.

IEEE 754 fixes the result of + − × ÷, but not of `cos` or `exp`: the C library and NumPy choose an implementation
by the processor they meet, and the last bit differs. One such bit is enough to change a fingerprint, so the functions
below use basic operations only. Each is a truncated series on a reduced argument, accurate to a few float64 ulp:
a billionth of the float32 ulp that a schedule is rounded to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)

_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_SIN = [(-1) ** k / math.factorial(2 * k + 1) for k in range(13)]
_EXP = [1 / math.factorial(k) for k in range(16)]
_ATANH = [1 / (2 * k + 1) for k in range(14)]


def steps(first: int, stop: int) -> Floats:
    """first, first + 1, … stop − 1 as float64."""
    return np.arange(first, stop, dtype=np.float64)


def sin_quarter(u: Number) -> Number:
    """sin(π/2 · u) for 0 ≤ u ≤ 1, a float or a float64 array; relative accuracy down to u = 0."""
    x = u * (math.pi / 2)
    return x * _horner(_SIN, x * x)


def exp2(x: ArrayLike) -> Floats:
    """2^x, float64 of the shape of `x`; 2^−∞ = 0."""
    bounded = np.maximum(np.asarray(x, dtype=np.float64), -2000.0)  # 2^−2000 is 0, and fits an int exponent
    whole = np.rint(bounded)
    fraction: Floats = (bounded - whole) * _LN2
    return np.ldexp(_horner(_EXP, fraction), whole.astype(np.int32))


def log2(x: ArrayLike) -> Floats:
    """log₂ x for x > 0, float64 of the shape of `x`."""
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    small = np.where(mantissa < _SQRT_HALF, 1, 0)
    mantissa = np.ldexp(mantissa, small)  # now √½ ≤ mantissa < √2
    s: Floats = (mantissa - 1) / (mantissa + 1)  # log m = 2 atanh s
    return (exponent - small) + s * _horner(_ATANH, s * s) * (2 / _LN2)


def power(x: ArrayLike, exponent: float) -> Floats:
    """x^exponent for 0 ≤ x ≤ 1 and exponent > 0, float64 of the shape of `x`."""
    x = np.asarray(x, dtype=np.float64)
    if exponent == 1:
        return x
    if exponent == 2:
        return x * x
    result = np.zeros_like(x)
    positive = x > 0
    result[positive] = exp2(exponent * log2(x[positive]))
    return result


def _horner(coefficients: Sequence[float], x: Number) -> Number:
    """Σ coefficients[k] · x^k. Separate operations, so no compiler fuses a product with a sum."""
    result = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        result += coefficient
        result *= x
    return result + coefficients[0]
