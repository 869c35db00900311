"""Whether half precision trains as well as single precision, and BatchNorm taking float16 as well as taking float32.

    python -m tests.benchmarks.bench_precision --seeds 1,2,3
    python -m tests.benchmarks.bench_precision --config train/recipes/cifar10_resnet20.yaml --seeds 1 \
        data.root=FOLDER schedule.total=300 schedule.warmup=30 evaluate.every=0

Real runs of ``python -m train``, one rank each, of a recipe with ``step.precision`` and ``step.batch_norm`` as the
table says. On a CPU float16 is slow, and what it shows is the rounding alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from tests.jobs import DIGITS, alone

FORMATS = {
    "fp32": [],
    "fp16, BatchNorm takes float32": ["step.precision=fp16", "step.loss_scale=1024", "step.batch_norm=fp32"],
    "fp16, BatchNorm takes float16": ["step.precision=fp16", "step.loss_scale=1024", "step.batch_norm=mixed"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DIGITS)
    parser.add_argument("--seeds", default="1,2,3", help="with commas between")
    parser.add_argument("setting", nargs="*")
    asked = parser.parse_intermixed_args()
    recipe = asked.config.resolve()  # each run works in a folder of its own
    print("| | top-1, mean (each seed) | validation loss, mean (each seed) |\n|---|---|---|")
    for name, settings in FORMATS.items():
        found = [train(recipe, [f"seed={seed}", *asked.setting, *settings]) for seed in asked.seeds.split(",")]
        top1, loss = ([point[key] for point in found] for key in ("val/top1", "val/loss"))
        cells = f"{statistics.mean(top1):.2%} ({', '.join(f'{value:.2%}' for value in top1)})"
        cells += f" | {statistics.mean(loss):.4f} ({', '.join(f'{value:.4f}' for value in loss)})"
        print(f"| {name} | {cells} |", flush=True)


def train(recipe: Path, settings: list[str]) -> dict[str, float]:
    """Train once; return the last validation's figures."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = [f"runs_dir={folder}", "name=run", "snapshots.steps=[]", "log.tensorboard=false"]
        alone(["-m", "train", "--config", recipe, *quiet, *settings], Path(folder), timeout=36000).check()
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return next(point for line in reversed(lines) if "val/top1" in (point := json.loads(line)))


if __name__ == "__main__":
    main()
