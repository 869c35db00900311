"""On every rank: a confusion matrix of 7 examples, of which rank 0 has 5, rank 1 the others, and a third rank none."""

from __future__ import annotations

from train.runtime import device

device.configure("cpu")

import numpy as np  # noqa: E402

from train.runtime import distributed  # noqa: E402
from train.runtime.errors import FiguresError, UserError  # noqa: E402
from train.step.metrics import ConfusionMatrix, Sums, figures_of  # noqa: E402


class Rows:
    def rows(self, outputs, targets):
        return np.column_stack([outputs, targets])

    def compute(self, rows):
        """Return another figure on each rank, as what draws numbers or reads a clock would."""
        if distributed.rank() == 1:
            raise ZeroDivisionError
        return len(rows) + distributed.rank()


def refuse() -> None:
    if distributed.rank() == 1:
        raise UserError("no such folder")


if __name__ == "__main__":
    distributed.init()
    rng = np.random.default_rng(4)
    outputs, targets = rng.normal(size=(7, 3)).astype(np.float32), rng.integers(0, 3, 7).astype(np.int32)
    mine = {0: slice(0, 5), 1: slice(5, 7)}.get(distributed.rank(), slice(7, 7))
    sums = Sums({"ConfusionMatrix": ConfusionMatrix(3)})
    for place in range(7)[mine]:
        sums.add(outputs[place : place + 1], targets[place : place + 1], np.ones(1, bool))
    print(sums.over_ranks()["ConfusionMatrix"].tolist())
    rows = Sums({"Rows": Rows()})
    for place in range(7)[mine]:
        rows.add(outputs[place : place + 1], targets[place : place + 1], np.ones(1, bool))
    print("rows", np.array_equal(rows.over_ranks()["Rows"], np.column_stack([outputs, targets]).astype(np.float64)))
    print(figures_of(rows.metrics, rows.over_ranks()))
    try:
        distributed.together(refuse)
    except UserError as error:
        print(error)
    if distributed.rank() == 1:  # which alone meets what is no class
        sums.add(outputs[:1], np.full(1, 7, np.int32), np.ones(1, bool))
    try:
        sums.over_ranks()
    except FiguresError as error:
        print(error)
