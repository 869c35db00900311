"""What watching a run costs: the ranks' own figures gathered once, and one update written for TensorBoard.

msrun --worker_num=2 --local_worker_num=2 --join=True --tail_worker_log=0 python tests/benchmarks/bench_logging.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.speed.measure import median_seconds
from train.runtime import device, distributed

ROUNDS = 300
SCALARS = {f"update/layer{i}/delta_l2": 0.1 * i for i in range(20)}


def main() -> None:
    device.configure("cpu")
    distributed.init()
    from train.hooks.events import EventLog

    figures = np.array([100.0, 1.0, 2.3])
    gather = 1e3 * median_seconds(lambda: distributed.gather_array(figures), ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(Path(folder))
        write = 1e3 * median_seconds(lambda: log.add_scalars(0, SCALARS), ROUNDS)
        log.close()
    print(
        f"rank {distributed.rank()}: gather {gather:.2f} ms, {len(SCALARS)} scalars written {write:.3f} ms", flush=True
    )


if __name__ == "__main__":
    main()
