"""Any optimizer's own kernel, run once more on what a snapshot holds of one layer: W_start, state and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.rundir.snapshots import FloatArray, Snapshot

if TYPE_CHECKING:
    from mindspore import nn

MakeOptimizer = Callable[["nn.Cell", NDArray[np.float32]], Any]
"""``make(model, lr)`` returns the optimizer of the model's trainable parameters, lr being (total_steps,)."""


def state_arrays(optimizer: nn.Optimizer, layers: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that hold the optimizer's state of ``layers``, under their names in a snapshot.

    ``moment1.0`` is that of the first layer; ``beta1_power`` is one that all layers share.
    """
    from train.step.optimizer import hyper_parameters

    no_state = {id(parameter) for parameter in (*hyper_parameters(optimizer), optimizer.global_step)}
    weights = sorted((parameter.name for parameter in optimizer.parameters), key=len, reverse=True)
    found = {}
    for parameter in optimizer.get_parameters():
        if parameter.name in weights or id(parameter) in no_state:
            continue
        name = parameter.name.removeprefix("optimizer.")
        owner = next((weight for weight in weights if name.endswith(f".{weight}")), None)
        if owner in layers:
            found[f"{name.removesuffix(f'.{owner}')}.{layers.index(owner)}"] = parameter
        elif owner is None:
            found[name] = parameter
    return found


def replay(
    make: MakeOptimizer, snapshot: Snapshot, index: int, lr: NDArray[np.float32]
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Return W_new and the state that the optimizer makes of what it was given of the layer ``index``.

    Args:
        lr: the schedule, float32 (total_steps,), of which it takes the element ``snapshot.kernel_step``.
    """
    import mindspore as ms
    from mindspore import nn

    layer = snapshot.layers[index]
    weight = ms.Parameter(ms.Tensor(layer.W_start), name=layer.name)
    model = nn.Cell(auto_prefix=False)
    model.insert_param_to_cell("weight", weight)
    optimizer = make(model, lr)
    state = state_arrays(optimizer, [layer.name])
    before = {**snapshot.shared, **{f"{name}.0": value for name, value in layer.before.items()}}
    for name, parameter in state.items():
        parameter.set_data(ms.Tensor(before[name]))
    optimizer.global_step.set_data(ms.Tensor([snapshot.kernel_step], ms.int32))
    optimizer((ms.Tensor(layer.gradient),))
    after = {name[:-2]: parameter.asnumpy().copy() for name, parameter in state.items() if name.endswith(".0")}
    return weight.asnumpy().copy(), after


def replay_at(make: MakeOptimizer, snapshot: Snapshot, index: int, lr: np.float32) -> FloatArray:
    """W_new with the learning rate ``lr`` in place of the schedule's, and nothing else changed."""
    return replay(make, snapshot, index, np.full(snapshot.kernel_step + 1, lr, np.float32))[0]
