"""Compare the ranks' weights and velocities now and then, and before every checkpoint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from train.hooks.base import Hook
from train.hooks.runstate import RunState
from train.runtime import distributed
from train.runtime.errors import ReplicasDifferError

if TYPE_CHECKING:
    from mindspore import Parameter


class ReplicaCheck(Hook):
    """Stop the run when ``parameters`` differ between ranks; checks every ``every`` updates (0: only when saving)."""

    def __init__(self, parameters: Mapping[str, Parameter], every: int):
        self.parameters = parameters
        self.every = every
        self._compared: int | None = None

    def on_state_complete(self, run: RunState) -> None:
        if self.every and run.step % self.every == 0:
            self._compare(run)

    def on_save(self, run: RunState) -> None:
        if self._compared != run.step:
            self._compare(run)

    def _compare(self, run: RunState) -> None:
        compare_ranks(self.parameters, run.step)
        self._compared = run.step


DIGEST_BYTES = 16
MOST_NAMED = 5


def compare_ranks(parameters: Mapping[str, Parameter], step: int) -> None:
    """Compare a hash of all ``parameters``, then, only if it differs, each of them. Collective.

    Raises:
        ReplicasDifferError: on every rank; names the parameters, the ranks that differ from the majority, and the
            largest difference from the lowest rank of the majority.
    """
    if distributed.world_size() == 1:
        return
    hashes = [_digest(p.asnumpy()) for p in parameters.values()]
    if len(set(distributed.gather_bytes(hashlib.sha256(b"".join(hashes)).digest()))) == 1:
        return
    rows = distributed.gather_bytes(b"".join(hashes))
    faults = []
    for index, name in enumerate(parameters):
        place = slice(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
        found = [row[place] for row in rows]
        if len(set(found)) > 1:
            faults.append(_describe(name, found, parameters[name].asnumpy()))
    more = f" and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    raise ReplicasDifferError(f"state {step} is not the same on all ranks: {'; '.join(faults[:MOST_NAMED])}{more}")


def _digest(array: np.ndarray) -> bytes:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # no copy
    return hashlib.sha256(flat.data).digest()[:DIGEST_BYTES]


def _describe(name: str, digests: list[bytes], own: np.ndarray) -> str:
    values = distributed.gather_array(own).astype(np.float64)
    majority, count = Counter(digests).most_common(1)[0]
    odd = [rank for rank, digest in enumerate(digests) if digest != majority]
    ranks = f"rank {', '.join(map(str, odd))}" if 2 * count > len(digests) else f"ranks 0 to {len(digests) - 1}"
    largest = abs(values[odd] - values[digests.index(majority)]).max()
    return f"{name} on {ranks} (largest difference {largest:.3g})"
