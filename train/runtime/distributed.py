"""Ranks: who this process is, and the few exchanges between processes outside the compiled step.

A single process needs no special case elsewhere: every function here then returns its own input. The exchanges carry
bytes through the one collective that keeps all bits on every backend, an int32 all-gather; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from train.runtime.ending import skip_destructors
from train.runtime.errors import EXIT_USER_ERROR, HungError, RunError, UserError

if TYPE_CHECKING:
    import mindspore

# One message of more than about 25 MB per rank was seen to fail with four ranks on a CPU.
MAX_MESSAGE_BYTES = 8 << 20
# What ends msrun's scheduler when ranks were silent for MS_NODE_TIMEOUT seconds.
SILENT_RANKS = re.compile(r"Timed out node list is: [^{]*{([\d, ]+)}")
# What it or a rank says when they did not all meet within MS_TOPO_TIMEOUT seconds.
NOT_MET = "Failed to initialize distributed job cluster"

T = TypeVar("T")

_world = (0, 1)
_named = False


def init() -> None:
    """Join the job that msrun started this process for; alone without msrun. The device must be set before.

    The scheduler process of msrun runs the same script and never returns from here: touch no file and print nothing
    before this call.

    Raises:
        HungError: when the ranks did not meet; in the scheduler, when a rank gave no sign of life for too long.
    """
    global _world, _named
    _named = True
    launched = os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")  # by msrun, or a cluster's launcher in its way
    if launched or os.environ.get("MS_SIMULATION_LEVEL"):  # one rank of many, without the others
        from mindspore import communication

        _world = (int(os.environ.get("RANK_ID", "0")), 1)  # until the ranks have met
        if os.environ.get("MS_ROLE") == "MS_SCHED":
            skip_destructors()  # it ends in init
        try:
            communication.init()
        except RuntimeError as error:
            explanation = _explain(str(error))
            if explanation is None:
                raise
            raise HungError(explanation) from None
        _world = (communication.get_rank(), communication.get_group_size())


def _explain(error: str) -> str | None:
    """Say in one line what MindSpore's ``error`` while joining means; None: not that another process is missing."""
    if silent := SILENT_RANKS.search(error):
        return (
            f"no sign of life of rank {silent[1]} for {os.environ.get('MS_NODE_TIMEOUT', 30)} s (MS_NODE_TIMEOUT): "
            "is its process or machine gone, the network to it down, or was a clock set forward?"
        )
    if NOT_MET in error:
        place = f"{os.environ.get('MS_SCHED_HOST')}:{os.environ.get('MS_SCHED_PORT')}"
        return f"the ranks did not meet: were all started, and does every node reach msrun's scheduler at {place}?"
    return None


def rank() -> int:
    """This process's number, 0 to ``world_size() - 1``."""
    return _world[0]


def own_name() -> str:
    """How this process is called in messages.

    Before :func:`init` mostly all ranks say the same, and the first needs no name; but a file may differ on one node,
    and then its ranks must not be silent.
    """
    if not _named:
        number = os.environ.get("RANK_ID", "0")
        return "" if number == "0" else f"rank {number}"
    return "scheduler" if os.environ.get("MS_ROLE") == "MS_SCHED" else f"rank {rank()}"


def world_size() -> int:
    """How many processes train together."""
    return _world[1]


MOST_THAT_ALL_WRITE = 64
"""With more ranks, "auto" is the first alone: a folder of thousands of files is slow on a shared file system."""


def share() -> slice:
    """Return which of a list's items this rank looks after, so that each has its rank."""
    return slice(rank(), None, world_size())


def chosen_ranks(key: str, ranks: str | list[int]) -> set[int]:
    """Return the ranks that ``key`` of a recipe means: "all", "first", "auto" or their numbers.

    Raises:
        UserError: for a rank that there is not.
    """
    if ranks == "auto":
        ranks = "all" if world_size() <= MOST_THAT_ALL_WRITE else "first"
    numbers = {"all": set(range(world_size())), "first": {0}}[ranks] if isinstance(ranks, str) else set(ranks)
    if max(numbers) >= world_size():
        raise UserError(f"{key}={ranks}: there are the ranks 0 to {world_size() - 1}")
    return numbers


def gather_bytes(data: bytes) -> list[bytes]:
    """Return every rank's ``data`` in the order of ranks, on every rank. Collective: all ranks must call it."""
    if world_size() == 1:
        return [data]
    lengths = _all_gather(np.array([len(data)], np.int64).view(np.int32)).view(np.int64)[:, 0]
    padded = np.zeros(-(-int(lengths.max()) // 4) * 4, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    words = padded.view(np.int32)
    step = MAX_MESSAGE_BYTES // 4
    parts = [_all_gather(words[start : start + step]) for start in range(0, len(words), step)]
    rows = np.concatenate(parts, axis=1) if parts else np.zeros((world_size(), 0), np.int32)
    return [row.tobytes()[:length] for row, length in zip(rows, lengths, strict=True)]


def gather_array(array: np.ndarray) -> np.ndarray:
    """Return every rank's ``array`` (same shape and dtype everywhere) as (world_size, *shape), bit for bit."""
    data = np.ascontiguousarray(array)
    rows = [np.frombuffer(row, data.dtype) for row in gather_bytes(data.tobytes())]
    return np.stack(rows).reshape(world_size(), *data.shape)


def gather_json(value: Any) -> list[Any]:
    """Return every rank's JSON-able ``value`` in the order of ranks."""
    return [json.loads(row) for row in gather_bytes(json.dumps(value).encode())]


def barrier() -> None:
    """Wait until every rank is here."""
    gather_bytes(b"")


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank. Collective: one message of four bytes."""
    return bool(_all_gather(np.array([flag], np.int32)).any()) if world_size() > 1 else flag


def together(action: Callable[[], T]) -> T:
    """Return ``action()``; a :class:`RunError` that it raises on any rank is raised on all of them, and names the first
    rank that has it, where that is not rank 0. Collective."""
    result, problem = None, None
    try:
        result = action()
    except RunError as error:
        problem = [str(error), error.exit_code]
    for place, found in enumerate(gather_json(problem)):
        if found is not None:
            words, code = (f"on rank {place}: {found[0]}" if place else found[0]), found[1]
            raise UserError(words) if code == EXIT_USER_ERROR else RunError(words, code)
    return cast(T, result)


def on_first_rank(action: Callable[[], T]) -> T:
    """Return on every rank what ``action()``, a JSON-able value, is on rank 0, or raise its error. Collective."""
    return gather_json(together(lambda: action() if rank() == 0 else None))[0]


def broadcast_parameters(parameters: list[mindspore.Parameter]) -> None:
    """Give every rank the values that rank 0 holds, in place. Parameters: any float or integer tensors."""
    if world_size() == 1:
        return
    import mindspore as ms
    from mindspore import ops

    send = ops.Broadcast(0)
    for parameter in parameters:
        parameter.set_data(ms.Tensor(send((ms.Tensor(parameter.asnumpy()),))[0].asnumpy()))


def average_parameters(parameters: list[mindspore.Parameter]) -> list[np.ndarray]:
    """Return the mean over the ranks of each float32 parameter: bit for bit the same on every rank, and in every run of
    as many ranks. One sum, whose size does not grow with their number."""
    flat = np.concatenate([np.zeros(0, np.float32), *(parameter.asnumpy().ravel() for parameter in parameters)])
    mean = _all_reduce(flat) / np.float32(world_size()) if flat.size and world_size() > 1 else flat
    ends = np.cumsum([parameter.size for parameter in parameters], dtype=int)
    # Cut after each parameter: behind the last comes an empty part, the only one where there are no parameters.
    return [part.reshape(p.shape) for part, p in zip(np.split(mean, ends)[:-1], parameters, strict=True)]


def require_same(values: Mapping[str, Any]) -> None:
    """End the job when one of ``values`` (JSON-able, by name) differs between ranks, naming each that is not in the
    majority. Collective.

    Raises:
        UserError: on every rank, with the same message.
    """
    own = json.dumps(dict(values), sort_keys=True).encode()
    if len(set(gather_bytes(hashlib.sha256(own).digest()))) == 1:  # the values themselves are megabytes on many ranks
        return
    everyone = gather_json(dict(values))
    for what in sorted({name for own in everyone for name in own}):
        found = [json.dumps(own.get(what), sort_keys=True) for own in everyone]
        majority, _ = Counter(found).most_common(1)[0]
        odd = [f"rank {number} has {other}" for number, other in enumerate(found) if other != majority]
        if odd:
            raise UserError(f"{what} differs between ranks: {', '.join(odd)}; the others have {majority}")


def _all_reduce(values: np.ndarray) -> np.ndarray:
    """Sum a 1-D float32 array over the ranks."""
    import mindspore as ms
    from mindspore import ops

    return ops.AllReduce()(ms.Tensor(values)).asnumpy()


def _all_gather(words: np.ndarray) -> np.ndarray:
    """All-gather a 1-D int32 array to (world_size, len)."""
    import mindspore as ms
    from mindspore import ops

    gathered = ops.AllGather()(ms.Tensor(np.ascontiguousarray(words)))
    return gathered.asnumpy().reshape(world_size(), -1).copy()
