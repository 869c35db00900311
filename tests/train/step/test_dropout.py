"""Masks follow seed, pass, rank and place; what draws otherwise is refused."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from train.runtime import distributed
from train.runtime.errors import UserError
from train.step.dropout import Dropout
from train.step.network import refuse_cells

pytestmark = pytest.mark.usefixtures("on_cpu")

P, SHAPE = 0.3, (64, 500)


class Model(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first = Dropout(P)
        self.second = Dropout(P)
        self.weight = Parameter(Tensor(np.ones(SHAPE, np.float32)), name="weight")

    def construct(self):
        return self.first(self.weight), self.second(self.weight)


class Trained(nn.Cell):
    """The masks of a forward pass, and the gradient of their sum."""

    def __init__(self, model: Model) -> None:
        super().__init__(auto_prefix=False)
        self.model = model.set_train()
        self.gradient = ms.value_and_grad(self.forward, None, ms.ParameterTuple([model.weight]), has_aux=True)

    def forward(self):
        first, second = self.model()
        return first.sum(), first, second

    def construct(self):
        (_, first, second), (gradient,) = self.gradient()
        return first, second, gradient


def passes(count: int, seed: int = 1, done: int = 0) -> list[np.ndarray]:
    ms.set_seed(seed)
    model = Model()
    for cell in (model.first, model.second):
        cell.passes.set_data(Tensor([done], ms.int32))
    step = Trained(model)
    found = [np.stack([tensor.asnumpy() for tensor in step()]) for _ in range(count)]
    assert model.first.passes.asnumpy() == [done + count]
    return found


def test_masks_follow_seed_pass_rank_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = passes(3)
    np.testing.assert_array_equal(passes(2, done=1), [second, third], "a resumed run has the same masks")
    for masks in (first, second, third):
        np.testing.assert_array_equal(masks[0], masks[2], "the gradient goes through the mask of its own pass")
        np.testing.assert_allclose(np.unique(masks[0]), [0.0, 1 / (1 - P)], rtol=1e-6)
        assert (masks[0] == 0).mean() == pytest.approx(P, abs=0.01)
    monkeypatch.setattr(distributed, "_world", (1, 2))
    other_rank = passes(1)[0]
    monkeypatch.undo()
    for one, other in (
        (first[0], first[1]),
        (first[0], second[0]),
        (first[0], other_rank[0]),
        (first[0], passes(1, seed=2)[0][0]),
        (first[0][1:], first[0][:-1]),
        (first[0][:, 1:], first[0][:, :-1]),
    ):
        agreeing = ((one == 0) == (other == 0)).mean()  # two independent masks: P² + (1-P)²
        assert agreeing == pytest.approx(P**2 + (1 - P) ** 2, abs=0.015)


def test_evaluation_drops_nothing() -> None:
    model = Model().set_train(False)
    for output in model():
        np.testing.assert_array_equal(output.asnumpy(), np.ones(SHAPE))
    assert model.first.passes.asnumpy() == [0]


def test_what_draws_inside_a_kernel_is_refused() -> None:
    model = nn.SequentialCell(nn.Dense(3, 3), nn.Dropout(p=0.5))
    with pytest.raises(UserError, match=r"^model: 1 is a Dropout, .*use train\.step\.dropout\.Dropout") as raised:
        refuse_cells(model)
    assert "\n" not in str(raised.value)
    refuse_cells(nn.SequentialCell(nn.Dense(3, 3), nn.Dropout(p=0.0), Dropout(0.5)))


def test_sparse_gradients_are_refused() -> None:
    """MindSpore's own message, when the update is compiled, is about a Concat of Undetermined."""
    lookup = getattr(nn, "EmbeddingLookup", None)  # which MindSpore takes away one day
    if lookup is None:
        pytest.skip("MindSpore has no cell with sparse gradients")
    with pytest.raises(UserError, match=r"^model: 0, EmbeddingLookup, has sparse gradients, .*; use nn\.Embedding"):
        refuse_cells(nn.SequentialCell(lookup(9, 4)))
    refuse_cells(nn.SequentialCell(lookup(9, 4, sparse=False, target="DEVICE"), nn.Embedding(9, 4)))
