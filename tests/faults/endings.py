"""How often does a job of two ranks end with a wrong code? ``python -m tests.faults.endings JOBS [AT_A_TIME]``.

Half of the jobs train a very small model to the end, the other half are refused when the ranks have met; each under the
launcher. Prints each job that ended otherwise, with its last lines, and how many ended with which code.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.runs import run

TINY = ("model.name=tests.faults.inject:Small", "model.options={}", "snapshots.layers=[]", "snapshots.steps=[]")
TINY += ("schedule.total=4", "checkpoint.every=0", "log.tensorboard=false")
REFUSED = "data.global_batch=4000"  # more than there are examples: told when the ranks have met
ENDS = {"finished": (0, "everything is in"), "refused": (2, "error: rank 0: data.global_batch")}


def end(folder: Path, number: int) -> tuple[str, int]:
    """Run one job; return its kind and its exit code, -1 where that is right but its words are missing."""
    kind = list(ENDS)[number % 2]
    more = [] if kind == "finished" else [REFUSED]
    done = run(folder, f"job-{number}", *TINY, *more, ranks=2)
    code, words = ENDS[kind]
    right = done.code == code and words in done.logs[0]
    if not right:
        print(f"job {number}, {kind}: {done.code}", *done.logs[0].splitlines()[-20:], sep="\n    ", flush=True)
    return kind, done.code if right or done.code != code else -1


def count(jobs: int, at_a_time: int = 1) -> Counter[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(at_a_time) as pool:
        return Counter(pool.map(lambda number: end(Path(folder), number), range(jobs)))


if __name__ == "__main__":
    for (kind, code), times in sorted(count(*map(int, sys.argv[1:])).items()):
        print(f"{kind}: {times} times {code}")
