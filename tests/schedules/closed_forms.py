"""The published formulas in extended precision, one step at a time where that is plainer: independent of schedules/."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Real = np.longdouble
PI = Real("3.14159265358979323846264338327950288")


def warmup(c: Mapping, count_from: int = 0) -> list:
    low, high, w = Real(c.get("lr_init", 0)), Real(c["lr_max"]), c.get("warmup", 0)
    return [low + (high - low) * Real(i + count_from) / w for i in range(w)]


def half_cosine(high, low, n: int, steps: int | None = None) -> list:
    high, low = Real(high), Real(low)
    # sin² instead of (1 + cos)/2: the same, without cancellation near the end.
    return [low + (high - low) * np.sin(PI * Real(n - i) / n / 2) ** 2 for i in range(n if steps is None else steps)]


def decay(c: Mapping) -> list:
    """What follows the warm-up, for every kind. Durations are plain steps here."""
    w, total = c.get("warmup", 0), c["total"]
    d, high, low = total - w, Real(c["lr_max"]), Real(c.get("lr_end", 0))
    u = [Real(i) / d for i in range(d)]
    match c["kind"]:
        case "constant":
            return [high] * d
        case "cosine":
            return half_cosine(high, low, d)
        case "linear":
            return [low + (high - low) * Real(d - i) / d for i in range(d)]
        case "polynomial":
            return [low + (high - low) * (Real(d - i) / d) ** Real(c["power"]) for i in range(d)]
        case "exponential":
            return [high * (low / high) ** x for x in u]
        case "step":
            return [high * Real(c["gamma"]) ** (t // c["every"]) for t in range(w, total)]
        case "multistep":
            return [high * Real(c["gamma"]) ** sum(m <= t for m in c["milestones"]) for t in range(w, total)]
        case "inverse_sqrt":
            return [high * np.sqrt(Real(w) / (w + i)) for i in range(d)]
        case "warmup_stable_decay":
            n = c["decay"]
            cool = {
                "linear": [low + (high - low) * Real(n - i) / n for i in range(n)],
                "cosine": half_cosine(high, low, n),
                "sqrt": [low + (high - low) * (1 - np.sqrt(Real(i) / n)) for i in range(n)],
            }
            return [high] * (d - n) + cool[c["decay_shape"]]
    raise AssertionError(c["kind"])


def ulps(lr: np.ndarray, exact: list) -> np.ndarray:
    """Distance of float32 values from exact ones, in units of float32's last place."""
    return np.abs(lr.astype(Real) - np.array(exact, dtype=Real)) / np.spacing(lr).astype(Real)
