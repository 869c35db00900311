"""Which ranks a key of a recipe means."""

from __future__ import annotations

import pytest

from train.runtime import distributed
from train.runtime.errors import UserError


@pytest.mark.parametrize(
    ("world", "ranks", "chosen"),
    [(64, "auto", 64), (65, "auto", 1), (65, "all", 65), (64, "first", 1), (9, [0, 8], 2)],
)
def test_who_is_chosen(world: int, ranks: str | list[int], chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_world", (0, world))
    assert len(distributed.chosen_ranks("snapshots.ranks", ranks)) == chosen


def test_a_rank_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_world", (0, 8))
    with pytest.raises(UserError, match=r"snapshots\.ranks=\[0, 8\]: there are the ranks 0 to 7"):
        distributed.chosen_ranks("snapshots.ranks", [0, 8])
