"""Any optimizer's own kernel, run once more on what a snapshot holds of one layer: W_start, state and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.rundir.snapshots import FloatArray, Layer, Snapshot
from train.runtime.errors import UserError

if TYPE_CHECKING:
    from mindspore import nn

MakeOptimizer = Callable[["nn.Cell", NDArray[np.float32]], Any]
"""``make(model, lr)`` returns the optimizer of the model's trainable parameters, lr being (total_steps,)."""


class Replay:
    """The optimizer of one layer, to be run once more on what it was given, at any step and on any rank.

    ``rate`` is the layer's own, float32 (total_steps,). ``tolerance`` is by how many ulp the kernel itself may differ
    from one call to the next: where a block of a thread ends, two of MindSpore's on a CPU round otherwise than within
    it, and where the blocks end they choose anew while they run. All others repeat every bit.

    Args:
        like: of the layer, for its name and its shape.
        lr: the schedule, float32 (total_steps,).
    """

    def __init__(self, make: MakeOptimizer, like: Layer, lr: NDArray[np.float32]):
        import mindspore as ms
        from mindspore import nn

        from train.step.optimizer import learning_rates, state_arrays

        self.weight = ms.Parameter(ms.Tensor(like.W_start), name=like.name)
        model = nn.Cell(auto_prefix=False)
        model.insert_param_to_cell("weight", self.weight)
        self.optimizer = make(model, lr)
        self.state = state_arrays(self.optimizer, [like.name])
        self.rate = learning_rates(self.optimizer)[like.name]
        varies = type(self.optimizer).__name__ in ("RMSProp", "AdamOffload")
        self.tolerance = 1.0 if varies and not getattr(self.optimizer, "centered", False) else 0.0

    def __call__(self, layer: Layer, snapshot: Snapshot) -> dict[str, FloatArray]:
        """Return ``W_new`` and the state by name, as made of the ``layer``'s W_start, state and gradient, with the rate
        and what all layers share of its ``snapshot``.

        Raises:
            UserError: for a snapshot without the whole state.
        """
        import mindspore as ms

        before = {**snapshot.shared, **{f"{name}.0": value for name, value in layer.before.items()}}
        for name, parameter in self.state.items():
            if name not in before or before[name].shape != parameter.shape:
                raise UserError(
                    f"{snapshot.file}: does not hold the state {name.removesuffix('.0')} of layer {layer.name} as "
                    f"{type(self.optimizer).__name__} has it; compare the run with the configuration it was made with"
                )
            parameter.set_data(ms.Tensor(before[name]))
        self.weight.set_data(ms.Tensor(layer.W_start))
        self.optimizer.global_step.set_data(ms.Tensor([snapshot.kernel_step], ms.int32))
        self.optimizer((ms.Tensor(layer.gradient),))
        made = {"W_new": self.weight, **{name.removesuffix(".0"): value for name, value in self.state.items()}}
        return {name: parameter.asnumpy().copy() for name, parameter in made.items()}


def replay_at(make: MakeOptimizer, snapshot: Snapshot, index: int, lr: np.float32) -> FloatArray:
    """W_new with the learning rate ``lr`` in place of the schedule's, and nothing else changed."""
    layer = snapshot.layers[index]
    return Replay(make, layer, np.full(snapshot.kernel_step + 1, lr, np.float32))(layer, snapshot)["W_new"]
