"""How long a schedule takes to build, as a ratio to the model zoo's loop in the same run, and its peak memory.

    python -m tests.benchmarks.bench_schedules

Exits with 1 where it is less than 8 times as fast as the loop; about 10 is expected, and plenty for what runs once.
Both run on one core, in turn, several times. The processor time of the best run of each counts, so that other work on
the machine flatters neither.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from schedules import get_lr

MIN_SPEEDUP = 8
RATES = {"lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001}

MEMORY = """
import sys
from schedules import get_lr
def status(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024
build = lambda n: get_lr(lr_init=0.01, lr_max=0.1, lr_end=0.001, warmup_steps=n // 100, total_steps=n)
build(1000)
open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts from here
before = status("VmRSS")
lr = build(int(sys.argv[1]))
print((status("VmHWM") - before) / lr.nbytes)
"""


def zoo_loop(lr_init: float, lr_max: float, lr_end: float, warmup_steps: int, total_steps: int) -> np.ndarray:
    """The formula of the zoo's MobileNetV2 script, in its form: a list, a loop, an array at the end."""
    rates = []
    for i in range(total_steps):
        if i < warmup_steps:
            lr = lr_init + (lr_max - lr_init) * i / warmup_steps
        else:
            progress = (i - warmup_steps) / (total_steps - warmup_steps)
            lr = lr_end + (lr_max - lr_end) * (1.0 + math.cos(math.pi * progress)) / 2.0
        if lr < 0.0:
            lr = 0.0
        rates.append(lr)
    return np.array(rates).astype(np.float32)


def timed(function: Callable[..., np.ndarray], durations: dict[str, int]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    lr = function(**RATES, **durations)
    return time.process_time() - start, lr


def measure(steps: int, rounds: int) -> bool:
    durations = {"warmup_steps": steps // 100, "total_steps": steps}
    ours, loops = [], []
    for _ in range(rounds):
        seconds, expected = timed(zoo_loop, durations)
        loops.append(seconds)
        for _ in range(5):
            seconds, lr = timed(get_lr, durations)
            ours.append(seconds)
    assert np.array_equal(lr, expected), "the two must build the same array, bit for bit"
    speedup = min(loops) / min(ours)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(steps)], capture_output=True, text=True, check=True)
    memory = float(done.stdout)
    print(
        f"{steps:>11,}  {min(loops) * 1e3:9.1f} ms  {min(ours) * 1e3:7.2f} ms  {min(ours) / steps * 1e9:5.2f} ns/step  "
        f"{speedup:5.0f}x  {memory:6.2f}x the array"
    )
    return speedup >= MIN_SPEEDUP


def main() -> int:
    print("      steps         loop    schedules                 ratio  peak memory")
    kept = [measure(1_000_000, rounds=5), measure(10_000_000, rounds=2)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
