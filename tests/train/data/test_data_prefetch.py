"""Reading ahead: in order, not too far, with its errors in the caller's thread, and over when the caller is."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator

import pytest

from train.data.loader import ordered_map, reading_threads
from train.runtime import cores, distributed


def reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("data")]


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (1, 4), (3, 2), (3, 50)])
def test_results_come_in_order(workers: int, ahead: int) -> None:
    assert list(ordered_map(lambda x: x * x, range(20), workers=workers, ahead=ahead)) == [x * x for x in range(20)]
    assert not reading()


def test_no_more_than_asked_is_done_ahead() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            asked.append(i)
            yield i

    results = ordered_map(lambda x: x, items(), workers=2, ahead=3)
    for i in range(10):
        assert next(results) == i
        assert len(asked) <= i + 1 + 3
    del results


def test_an_error_is_raised_in_its_turn_and_ends_the_threads() -> None:
    def fail_at_3(item: int) -> int:
        if item == 3:
            raise ZeroDivisionError("three")
        return item

    results = ordered_map(fail_at_3, range(100), workers=2, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="three"):
        next(results)
    assert not reading()


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_leaving_early_cancels_what_waits(leave: str) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item > 0:
            gate.wait(60)
        return item

    results = ordered_map(work, range(100), workers=1, ahead=5)
    assert next(results) == 0
    threading.Timer(0.05, gate.set).start()
    if leave == "close":
        results.close()  # type: ignore[attr-defined]
    del results
    assert not reading()
    assert len(begun) <= 3, "what had not begun was cancelled"


@pytest.mark.parametrize(
    ("ranks", "threads"),
    [
        ([[0, 1, 2, 3], [0, 1, 2, 3]], 2),
        ([[0, 1], [2, 3]], 2),
        ([[0, 1, 2, 3, 4, 5]] * 3, 2),
        ([[0], [0], [0, 1]], 1),
    ],
    ids=["shared", "bound", "three", "few"],
)
def test_cores_are_shared_by_the_ranks_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, ranks: list[list[int]], threads: int
) -> None:
    elsewhere = ["another machine", [0, 1]]
    gathered = [elsewhere, *([socket.gethostname(), one] for one in ranks)]
    monkeypatch.setattr(distributed, "gather_json", lambda own: gathered)
    monkeypatch.setattr(cores, "quota", lambda: math.inf)
    assert reading_threads(0) == threads
    monkeypatch.setattr(cores, "quota", lambda: 1.0)
    assert reading_threads(0) == 1


def test_the_number_of_threads_can_be_chosen() -> None:
    assert reading_threads(7) == 7
    assert reading_threads(0) >= 1
