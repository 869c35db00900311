"""Which of oneDNN's kernels an update spends its time in, as oneDNN's own log (``ONEDNN_VERBOSE=1``) has it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict

from tests.benchmarks.speed.measure import WARM_UP
from tests.jobs import ROOT, environment

UPDATES = 4


def profile(images: int) -> list[str]:
    """Run a few updates of one process and return a Markdown table: milliseconds an update for each kind of kernel."""
    task = ["-m", "tests.benchmarks.speed.updates", f"--batch={images}", f"--updates={UPDATES}"]
    variables = {**environment(), "ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, *task], cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for line in done.stdout.splitlines():
        fields = line.split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            # ..., exec, cpu, primitive, implementation, ..., milliseconds
            first = fields.index("exec")
            spent[fields[first + 2], fields[first + 3]] += float(fields[-1]) / (UPDATES + WARM_UP)
    update = 1e3 * json.loads(done.stdout.splitlines()[-1])
    lines = [f"| {images} images, an update of {update:.0f} ms | oneDNN's kernel | ms | share |", "|---|---|--:|--:|"]
    for (primitive, kernel), milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        lines.append(f"| {primitive} | `{kernel}` | {milliseconds:.1f} | {milliseconds / update:.1%} |")
    rest = update - sum(spent.values())
    return [*lines, f"| all else: other operators, messages, Python | | {rest:.1f} | {rest / update:.1%} |"]
