"""One update through MindSpore's own ``nn.Momentum`` kernel, outside any training loop."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def update_at(steps: Iterable[int], W_start: FloatArray, v: FloatArray, lr: FloatArray) -> dict[int, FloatArray]:
    """W_new for each of ``steps``, every one of them from the same ``W_start`` and velocity ``v``.

    ``W_start`` and ``v`` are float32 of one shape, ``lr`` is the whole schedule, float32 (total_steps,); the
    optimizer itself takes ``lr[t]`` out of it by its ``global_step``, as in training. With zero moments the
    velocity v_t = momentum·0 + g is the gradient, whatever the momentum: the kernel gets ``v`` as its gradient.

    Device and mode are left as they are set, and nothing here communicates: it can run on one rank of a job.
    """
    import mindspore as ms
    from mindspore import nn

    parameter = ms.Parameter(ms.Tensor(W_start), name="W")
    optimizer = nn.Momentum([parameter], learning_rate=ms.Tensor(lr), momentum=0.9)
    zeros = np.zeros_like(W_start)
    updated = {}
    for step in steps:
        parameter.set_data(ms.Tensor(W_start))
        optimizer.moments[0].set_data(ms.Tensor(zeros))
        optimizer.global_step.set_data(ms.Tensor([step], ms.int32))
        optimizer((ms.Tensor(v),))
        updated[step] = parameter.asnumpy().copy()
    return updated
