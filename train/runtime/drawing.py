"""What TensorBoard and the comparison draw alike: cards, and an array as a matrix in colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray


def new_card() -> Figure:
    """Return an empty figure whose text can be read on TensorBoard's cards, which show it about 300 pixels wide."""
    figure = Figure(figsize=(4.0, 2.7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_matrix(values: NDArray[Any]) -> NDArray[Any]:
    """``values`` as a matrix (shape[0], product of the rest): a convolution (out, in, k, k) as (out, in·k·k), a dense
    kernel as it is; a vector or scalar becomes one row."""
    return values.reshape(1, -1) if values.ndim < 2 else values.reshape(len(values), -1)


def column_name(shape: tuple[int, ...]) -> str:
    if len(shape) < 2:
        return "element"
    return "input" if len(shape) == 2 else "input channel × window"


def colour_limit(matrices: Sequence[NDArray[Any]]) -> float:
    """The 99.5th percentile of |ΔW|: the velocity has long tails, and a scale up to the maximum shows them only."""
    sizes = np.abs(np.concatenate([matrix.ravel() for matrix in matrices]))
    sizes = sizes[np.isfinite(sizes)]
    if not sizes.any():
        return 1.0
    return float(np.quantile(sizes, 0.995)) or float(sizes.max())


def heat_map(values: np.ndarray, limit: float, title: str) -> Figure:
    """Draw ``values`` of any shape as a matrix in colours from ``-limit`` to ``limit``."""
    drawing = new_card()
    axes = drawing.subplots()
    matrix = as_matrix(values)
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set(xlabel=column_name(values.shape), ylabel="output" if values.ndim > 1 else "")
    axes.set_title(title.replace("$", r"\$"), fontsize=9)  # no formula
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    drawing.colorbar(image, ax=axes, pad=0.01, extend="both")
    return drawing
