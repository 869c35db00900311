"""Work done ahead by threads, given back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``; ``workers`` threads compute at most ``ahead`` items early.

    An exception of ``function`` is raised here, in the caller's thread, when its turn has come. Closing the iterator
    (or dropping it) cancels what has not begun and waits for what has.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
