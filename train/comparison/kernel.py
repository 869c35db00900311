"""Any optimizer's own kernel, run once more on what a snapshot holds of one layer: W_start, state and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.rundir.snapshots import FloatArray, Layer, Snapshot

if TYPE_CHECKING:
    from mindspore import nn

MakeOptimizer = Callable[["nn.Cell", NDArray[np.float32]], Any]
"""``make(model, lr)`` returns the optimizer of the model's trainable parameters, lr being (total_steps,)."""


class Replay:
    """The optimizer of one layer, to be run once more on what it was given, at any step and on any rank.

    Args:
        like: of the layer, for its name and its shape.
        lr: the schedule, float32 (total_steps,).
    """

    def __init__(self, make: MakeOptimizer, like: Layer, lr: NDArray[np.float32]):
        import mindspore as ms
        from mindspore import nn

        from train.step.optimizer import state_arrays

        self.make, self.lr = make, lr
        self.weight = ms.Parameter(ms.Tensor(like.W_start), name=like.name)
        model = nn.Cell(auto_prefix=False)
        model.insert_param_to_cell("weight", self.weight)
        self.optimizer = make(model, lr)
        self.state = state_arrays(self.optimizer, [like.name])

    def __call__(self, layer: Layer, snapshot: Snapshot) -> dict[str, FloatArray]:
        """Return ``W_new`` and the state by name, as made of the ``layer``'s W_start, state and gradient, with the rate
        and what all layers share of its ``snapshot``."""
        import mindspore as ms

        self.weight.set_data(ms.Tensor(layer.W_start))
        before = {**snapshot.shared, **{f"{name}.0": value for name, value in layer.before.items()}}
        for name, parameter in self.state.items():
            parameter.set_data(ms.Tensor(before[name]))
        self.optimizer.global_step.set_data(ms.Tensor([snapshot.kernel_step], ms.int32))
        self.optimizer((ms.Tensor(layer.gradient),))
        after = {name[:-2]: parameter for name, parameter in self.state.items() if name.endswith(".0")}
        return {name: parameter.asnumpy().copy() for name, parameter in {"W_new": self.weight, **after}.items()}

    def both_paths(self, layer: Layer, snapshot: Snapshot, places: NDArray[np.intp]) -> list[dict[str, FloatArray]]:
        """Return what the kernel makes of some elements in its vector instructions, and of each of them alone.

        A kernel cuts an array into blocks for its threads, on a CPU where it finds it fastest, and what is left of a
        block's last vector is computed by other instructions, which may round otherwise: ``nn.RMSProp``'s do. So the
        last bit of an element depends on where a block ended.

        Args:
            places: of the elements in the flat array, (n,).

        Returns:
            Twice the arrays of a call, each of shape (n,).
        """
        vectors = _elements(layer, np.repeat(places, LANES))
        in_vectors = Replay(self.make, vectors, self.lr)(vectors, snapshot)  # a kernel's first call is in one block
        single = [_elements(layer, place) for place in places.reshape(-1, 1)]
        replay = Replay(self.make, single[0], self.lr)
        alone = [replay(element, snapshot) for element in single]
        return [
            {name: made.reshape(-1)[::LANES] for name, made in in_vectors.items()},
            {name: np.concatenate([made[name].reshape(-1) for made in alone]) for name in in_vectors},
        ]


LANES = 16
"""Numbers in the widest vector register there is."""


def _elements(layer: Layer, places: NDArray[np.intp]) -> Layer:
    """Of ``layer`` only the elements at ``places``, in an array of as many dimensions."""

    def take(values: FloatArray) -> FloatArray:
        return values.reshape(-1)[places].reshape((1,) * (values.ndim - 1) + (-1,))

    assert layer.gradient is not None
    before = {name: take(value) for name, value in layer.before.items()}
    return Layer(layer.name, take(layer.W_start), take(layer.W_new), gradient=take(layer.gradient), before=before)


def replay_at(make: MakeOptimizer, snapshot: Snapshot, index: int, lr: np.float32) -> FloatArray:
    """W_new with the learning rate ``lr`` in place of the schedule's, and nothing else changed."""
    layer = snapshot.layers[index]
    return Replay(make, layer, np.full(snapshot.kernel_step + 1, lr, np.float32))(layer, snapshot)["W_new"]
